"""Runs one merge, from adapters to a verified folder. Knows the order of the steps; other modules do them."""

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lora_mm.artifact.card import render_merged_card
from lora_mm.artifact.files import CARD, PREPROCESSING, RECIPE
from lora_mm.artifact.folder import load_adapters
from lora_mm.artifact.hub import LocatedAdapter, locate_adapter
from lora_mm.artifact.peft_config import load_peft_config
from lora_mm.artifact.preprocessing import check_same_base
from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError, LoraMMError
from lora_mm.jobs.merge_probes import Probes, make_probes
from lora_mm.jobs.session import find_adapter_recipe, load_recipe_base, make_base_collator
from lora_mm.json_text import to_json
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.drift import Drift, format_drift
from lora_mm.merging.mergeable import check_mergeable, depends_on_modality
from lora_mm.merging.verify import Reference, load_merged_model, load_stock_lora, record_reference
from lora_mm.merging.writers import write_model, write_stock_lora
from lora_mm.models.anatomy import list_modalities
from lora_mm.models.fitting import make_fitting_processor
from lora_mm.models.picture_fit import describe_fit
from lora_mm.models.precision import Dtype, resolve_dtype
from lora_mm.models.special_tokens import allow_tokens
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe

MergeFormat = Literal["model", "lora"]
"""``model``: a plain transformers checkpoint; ``lora``: a stock PEFT LoRA."""

_VERIFICATION_BYTES = 500_000_000
"""Memory that the merged model may use beyond that of the adapted base."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """A finished merge.

    Attributes:
        output: the written folder.
        dtype: data type of the weights in the files.
        drifts: modality → difference between merged and unmerged logits.
        lines: ``drifts`` as text.
    """

    output: Path
    dtype: Dtype
    drifts: dict[str, Drift]
    lines: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values, for ``--json``."""
        drifts = {modality: asdict(drift) for modality, drift in self.drifts.items()}
        return {"output": str(self.output), "dtype": self.dtype, "drift": drifts}


@dataclass(frozen=True, slots=True)
class _Job:
    """A merge to run.

    Attributes:
        adapters: the adapters, in the order in which they are active.
        recipe: recipe of the first adapter, for base and data.
        format: format of the files.
        modality: modality to merge for; None if no adapter depends on it.
        dtype: data type of the files.
        depends_on_modality: whether an adapter computes differently for each modality.
        say: called with each line of progress.
    """

    adapters: Sequence[LocatedAdapter]
    recipe: Recipe
    format: MergeFormat
    modality: str | None
    dtype: Dtype
    depends_on_modality: bool
    say: Callable[[str], None]

    @property
    def exact(self) -> bool:
        """Whether both the adapted and the merged model compute in fp32."""
        dtypes = {resolve_dtype(self.recipe.base.dtype), self.dtype}
        return self.recipe.base.quantization != "int8" and dtypes == {"float32"}


def merge(
    adapters: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    overrides: Iterable[str] = (),
    format: MergeFormat = "model",
    modality: str | None = None,
    dtype: Dtype | None = None,
    say: Callable[[str], None] | None = None,
) -> MergeResult:
    """Merge adapters into their base, or convert them to a stock LoRA, and verify the result.

    Args:
        adapters: adapters of one base: folders, packed files or Hub ids. Several are merged as if all were active, in
            this order.
        output: folder to make.
        overrides: ``key=value`` settings for the adapters' recipes; base and data of the first recipe are used.
        format: ``model`` for a plain transformers checkpoint, ``lora`` for a stock PEFT LoRA.
        modality: modality to merge for, if an adapter depends on it: ``text``, ``image``, …
        dtype: data type of the files; by default the base's for a model, float32 for a LoRA.
        say: called with each line of progress; None prints nothing.

    Returns:
        The written folder and the differences between merged and unmerged logits.

    Raises:
        InputError: the adapters cannot be merged, or not together, or ``output`` exists.
        LoraMMError: merged and unmerged logits differ too much, or the folder cannot be written; no folder is left.
    """
    output = Path(output)
    job = _prepare(adapters, list(overrides), format, modality, dtype, say or (lambda line: None))
    with atomic_folder(output) as folder:
        probes, reference, pictures = _write(job, folder)
        gc.collect()  # frees the adapted base before the merged model is loaded
        drifts = _verify(job, folder, reference)
        lines = list(format_drift(drifts, exact=job.exact))
        for line in (f"Compared on {probes.about}.", *lines):
            job.say(line)
        if pictures:
            job.say(f"The processor does not fit pictures by itself: they must be {pictures} before it.")
        _check_drifts(job, drifts)
        card = _render_card(job, output.name, probes, lines, pictures)
        (folder / CARD).write_text(card, encoding="utf-8")
    return MergeResult(output, job.dtype, drifts, lines)


def _prepare(
    adapters: str | Path | Sequence[str | Path],
    overrides: Sequence[str],
    format: MergeFormat,
    modality: str | None,
    dtype: Dtype | None,
    say: Callable[[str], None],
) -> _Job:
    """Locate the adapters, and check everything that needs no model."""
    sources = [adapters] if isinstance(adapters, str | Path) else adapters
    located = [locate_adapter(str(source)) for source in sources]
    if not located:
        raise InputError("No adapter to merge.")
    folders = [adapter.folder for adapter in located]
    recipes = [load_recipe(find_adapter_recipe(folder), overrides) for folder in folders]
    resolved = [folder.resolve() for folder in folders]
    repeated = [str(folder) for n, folder in enumerate(folders) if resolved[n] in resolved[:n]]
    if repeated:
        raise InputError(f"{', '.join(repeated)}: given twice; give each adapter once.")
    check_same_base(folders)
    shared: dict[str, list[str]] = {
        "base.quantization": [recipe.base.quantization for recipe in recipes],
        "data.pictures.fit": [recipe.data.pictures.fit for recipe in recipes],
        "data.special_tokens": [to_json(sorted(recipe.data.special_tokens)) for recipe in recipes],
    }
    for key, values in shared.items():
        if len(set(values)) > 1:
            listed = "; ".join(f"{folder}: {value}" for folder, value in zip(folders, values, strict=True))
            raise InputError(f"{key} differs ({listed}). Choose one: --set {key}=KIND.")
    configs = {str(folder): load_peft_config(folder) for folder in folders}
    check_mergeable(configs, modality)
    recipe = recipes[0]
    file_dtype: Dtype = dtype or (resolve_dtype(recipe.base.dtype) if format == "model" else "float32")
    return _Job(located, recipe, format, modality, file_dtype, depends_on_modality(configs.values()), say)


def _write(job: _Job, folder: Path) -> tuple[Probes, Reference, str | None]:
    """Write the merged weights; also record the adapted model's logits on probes, to compare the result with.

    Returns:
        The probes, the logits, and what must be done to pictures before the processor that readers will use.
    """
    base = load_recipe_base(job.recipe)
    collator = make_base_collator(job.recipe, base)
    model = load_adapters(base, [adapter.folder for adapter in job.adapters], job.recipe.base.kernels)
    changes = collect_changes(model, job.modality)
    merged_for = job.modality if job.depends_on_modality else None
    probes = make_probes(job.recipe, collator, [merged_for] if merged_for else list_modalities(model)[:2])
    reference = record_reference(model, probes.batches, modality=merged_for)
    dtype = getattr(torch, job.dtype)
    fit = job.recipe.data.pictures.fit
    pictures = describe_fit(fit)
    if job.format == "model":
        job.say(f"Writing the base with {len(changes)} linear layers merged.")
        base = replace(base, processor=allow_tokens(base.processor, job.recipe.data.special_tokens))
        if fitting := make_fitting_processor(base.processor, fit):
            base, pictures = replace(base, processor=fitting), None
        write_model(model, changes, folder, base=base, dtype=dtype)
    else:
        job.say(f"Writing a stock LoRA of {len(changes)} linear layers.")
        write_stock_lora(model, changes, folder, base=base, dtype=dtype)
        (folder / RECIPE).write_text(job.recipe.to_yaml(), encoding="utf-8")
        shutil.copyfile(job.adapters[0].folder / PREPROCESSING, folder / PREPROCESSING)
    return probes, reference, pictures


def _verify(job: _Job, folder: Path, reference: Reference) -> dict[str, Drift]:
    """Load the written files as a user does, by plain transformers or PEFT, and compare logits on the probes."""
    if job.format == "lora":
        base: nn.Module = load_recipe_base(job.recipe).model
        return reference.compare(load_stock_lora(base, folder))
    with tempfile.TemporaryDirectory() as offload:
        model = load_merged_model(
            folder,
            dtype=job.dtype,
            attention=job.recipe.base.attention,
            max_bytes=reference.model_bytes + _VERIFICATION_BYTES,
            offload=Path(offload),
        )
        return reference.compare(model)


def _check_drifts(job: _Job, drifts: dict[str, Drift]) -> None:
    """Raise LoraMMError with advice if a drift exceeds its limits."""
    exceeding = [modality for modality, drift in drifts.items() if not drift.is_within_limits(exact=job.exact)]
    if not exceeding:
        return
    if job.exact:
        advice = "The anatomy of this base may be wrong (`lora-mm models show`); please report it."
    elif job.dtype == "float32":
        advice = "The base's precision is too low for the adapter's changes; keep the adapter."
    else:
        advice = f"{job.dtype} is too coarse for the adapter's changes: use --dtype float32, or keep the adapter."
    raise LoraMMError(
        f"Merged and unmerged logits differ by more than the limit on {' and '.join(exceeding)}; nothing was written. "
        f"{advice}"
    )


def _render_card(job: _Job, name: str, probes: Probes, lines: Sequence[str], pictures: str | None) -> str:
    return render_merged_card(
        name=name,
        base=job.recipe.base.model,
        revision=job.recipe.base.revision,
        adapters=[adapter.name for adapter in job.adapters],
        modality=job.modality,
        dtype=job.dtype if job.format == "model" else None,
        probes=probes.about,
        drifts=lines,
        pictures=pictures,
        licence=job.recipe.license,
    )
