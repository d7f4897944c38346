"""Renders the model cards of adapters and of merged models. Knows text; measures nothing.

``huggingface_hub`` writes the front matter, and the scores in it that the Hub shows beside a model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lora_mm import __version__
from lora_mm.adapters.methods import METHODS

OTHER = "other"
"""The Hub's name for a licence that is not in its list, or not stated."""

_TASK = "image-text-to-text"
_TEMPLATES = Path(__file__).parent / "templates"


def render_model_card(
    *,
    name: str,
    summary: str,
    base: str,
    revision: str | None,
    data: str,
    methods: Sequence[str],
    stock: bool,
    trained: int,
    size: str,
    scores: str,
    parts: Mapping[str, tuple[int, int, int]],
    folder: str,
    pictures: str | None = None,
    licence: str = OTHER,
    metrics: Mapping[str, str] | None = None,
    split: str | None = None,
    figures: Mapping[str, float] | None = None,
) -> str:
    """Render the card of an adapter: Markdown, with the Hub's metadata on top.

    Args:
        name: title of the card.
        summary: the recipe's summary.
        base: the base's Hub id or folder.
        revision: the base's commit on the Hub; None for a folder.
        data: what the adapter was trained on, as the recipe names it.
        methods: methods of the adapter's placements.
        stock: whether the adapter is a stock PEFT LoRA.
        trained: number of trained parameters.
        size: size of the weights file, such as ``1.2 MB``.
        scores: Markdown table of the scores, and the data that they were measured on.
        parts: part → (parameters, trained parameters, bytes).
        folder: name by which the adapter is loaded.
        pictures: what was done to pictures before the processor, such as ``cropped to the central square``.
        licence: the Hub's name for it, such as ``apache-2.0``.
        metrics: name in ``figures`` → the Hub's name of that metric, for the metadata; ``accuracy`` by default.
        split: evaluated split, for the metadata.
        figures: the adapter's measured figures, by name, for the metadata; None for none.
    """
    routers = {method: METHODS[method].router for method in methods}
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_name=_to_one_line(data),
            dataset_type=_to_one_line(data),
            dataset_split=split,
            metric_type=(metrics or {}).get(column, "accuracy"),
            metric_name=column,
            metric_value=round(value, 2),
        )
        for column, value in (figures or {}).items()
    ]
    metadata = _make_metadata(
        base, revision, licence, "peft", ["multimodal", *(methods or ["connector"])], name=name, results=results
    )
    return _render(
        "adapter.md.jinja",
        metadata,
        name=_to_one_line(name),
        summary=_to_one_line(summary),
        base=_to_one_line(base),
        revision=_to_one_line(revision or ""),
        data=_to_one_line(data),
        trained=trained,
        size=size,
        scores=scores.strip(),
        stock=stock,
        name_to_load=_to_one_line(folder),
        pictures=pictures,
        unmergeable=[method for method, router in routers.items() if router not in (None, "modality")],
        by_modality="modality" in routers.values(),
        parts=parts,
        licence=_to_one_line(licence),
    )


def render_merged_card(
    *,
    name: str,
    base: str,
    revision: str | None,
    adapters: Sequence[str],
    modality: str | None,
    dtype: str | None,
    probes: str,
    drifts: Sequence[str],
    pictures: str | None = None,
    licence: str = OTHER,
) -> str:
    """Render the card of a merged model, or of a LoRA that adapters were merged into.

    Args:
        name: title of the card.
        base: the base's Hub id or folder.
        revision: the base's commit on the Hub; None for a folder.
        adapters: names of the merged adapters.
        modality: modality that they were merged for; None for all.
        dtype: of the merged weights; None for a stock LoRA.
        probes: description of the probes that the result was compared on.
        drifts: measured drifts, one line per modality.
        pictures: what must be done to pictures before the processor, such as ``cropped to the central square``.
        licence: the Hub's name for it.
    """
    metadata = _make_metadata(base, revision, licence, "transformers" if dtype else "peft", [])
    return _render(
        "merged.md.jinja",
        metadata,
        name=_to_one_line(name),
        base=_to_one_line(base),
        revision=_to_one_line(revision or ""),
        adapters=[_to_one_line(adapter) for adapter in adapters],
        modality=modality,
        dtype=dtype,
        probes=_to_one_line(probes),
        drifts=drifts,
        pictures=pictures,
    )


def _to_one_line(text: str) -> str:
    """``text`` on one line, without backticks, so that it can stand in a line of Markdown or in code."""
    return " ".join(text.split()).replace("`", "'")


def _make_metadata(
    base: str,
    revision: str | None,
    licence: str,
    library: str,
    tags: Sequence[str],
    *,
    name: str = "",
    results: Sequence[EvalResult] = (),
) -> ModelCardData:
    """Make the Hub's metadata; every text is one line, so that YAML does not change it."""
    return ModelCardData(
        # The Hub refuses a base that is not on the Hub: the name of a folder is in the text only.
        base_model=" ".join(base.split()) if revision else None,
        library_name=library,
        license=" ".join(licence.split()),
        pipeline_tag=_TASK,
        tags=["lora-mm", *tags],
        model_name=_to_one_line(name) if results else None,
        eval_results=list(results) or None,
    )


def _render(template: str, metadata: ModelCardData, **fields: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    fields |= {"card_data": metadata.to_yaml(), "version": __version__}
    return str(ModelCard(environment.get_template(template).render(fields)))
