"""The model card of an adapter folder, from what was measured. Knows text; computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_mm.adapters.methods import METHODS
from lora_mm.yaml_text import to_yaml

OTHER = "other"
"""The licence of an adapter whose maker named none, in the Hub's own terms."""

_CARD = """\
---
{metadata}---

# {name}

{summary}

Adapter for `{base}`{revision}, trained with [lora-mm](https://pypi.org/project/lora-mm/) {version} on {data}:
{trained:,} trained parameters, {size} on disk. The resolved recipe is in `recipe.yaml`.

## Scores

{scores}

## Load it

```python
{load}
```

`{folder}` is this folder, or its id on the Hub. From the command line:

```bash
lora-mm evaluate {folder}
lora-mm generate {folder} --image FILE --prompt TEXT
```

## Merge it

{merge}

## What was trained

{parts}

## Licence

{licence}
"""

_LOAD_ROUTED = """\
import lora_mm  # without it, PEFT says: KeyError 'ROUTED'
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "{folder}")"""

_LOAD_STOCK = """\
from peft import PeftModel  # a stock LoRA: lora-mm is not needed

model = PeftModel.from_pretrained(base_model, "{folder}")"""

_MERGE = """\
Into the base's weights, to be used without lora-mm:

```bash
{lines}
```"""


def render_model_card(
    *,
    name: str,
    summary: str,
    base: str,
    revision: str | None,
    version: str,
    data: str,
    methods: Sequence[str],
    stock: bool,
    trained: int,
    size: str,
    scores: str,
    parts: Mapping[str, tuple[int, int, int]],
    folder: str,
    licence: str = OTHER,
) -> str:
    """The card as Markdown with the Hub's metadata on top.

    Args:
        data: what it was trained on, as the recipe calls it.
        stock: whether the adapter is a stock PEFT LoRA.
        scores: a Markdown table of what was measured, and on what.
        parts: part → (parameters, trained, bytes).
        licence: as the Hub calls it, such as ``apache-2.0``.
    """
    rows = "\n".join(f"| {part} | {total:,} | {count:,} |" for part, (total, count, _) in parts.items())
    return _CARD.format(
        metadata=render_metadata(
            base, revision, licence, "peft", ["multimodal", *(dict.fromkeys(methods) or ["connector"])]
        ),
        name=to_one_line(name),
        summary=to_one_line(summary),
        base=to_one_line(base),
        revision=f" at revision `{revision}`" if revision else "",
        version=version,
        data=f"`{to_one_line(data)}`",
        trained=trained,
        size=size,
        scores=scores.strip(),
        load=(_LOAD_STOCK if stock else _LOAD_ROUTED).format(folder=to_one_line(folder)),
        merge=_merging(methods, to_one_line(folder)),
        parts=f"| part | parameters | trained |\n|---|---:|---:|\n{rows}",
        folder=to_one_line(folder),
        licence=_licence(licence),
    )


def render_metadata(base: str, revision: str | None, licence: str, library: str, tags: Sequence[str] = ()) -> str:
    """What the Hub reads on top of a card, as YAML.

    Args:
        revision: the commit on the Hub of ``base``; None for a folder.
        library: that loads it, ``peft`` or ``transformers``.
    """
    fields: dict[str, Any] = {
        # The Hub refuses cards whose base is none of its own: a folder's name stays in the text.
        **({"base_model": base} if revision else {}),
        "library_name": library,
        "license": licence,
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora-mm", *tags],
    }
    return to_yaml(fields)


def _merging(methods: Sequence[str], folder: str) -> str:
    """How, or why not: one weight cannot be several."""
    routers = {method: METHODS[method].router for method in methods}
    several = [method for method, router in routers.items() if router not in (None, "modality")]
    if several:
        return (
            f"It does not merge: {' and '.join(several)} computes a token or a crop by the one it is, and one weight "
            "cannot be several. Use it as the adapter that it is."
        )
    whole = f"lora-mm merge {folder} --output merged"
    if "modality" not in routers.values():
        return _MERGE.format(lines=whole)
    each = [f"{whole}-{modality} --modality {modality}" for modality in ("image", "text")]
    return _MERGE.format(lines="\n".join(each)) + (
        "\n\nEach is exact for samples of its modality; both together are the whole adapter. "
        "`--as lora` writes stock PEFT LoRAs in place of models."
    )


def _licence(licence: str) -> str:
    if licence == OTHER:
        return "Whoever trained it named none; what its base and its data are licensed under holds for it."
    return f"{to_one_line(licence)}; what its base and its data are licensed under holds beside it."


def to_one_line(text: str) -> str:
    """``text`` on one line, and no end of code in it."""
    return " ".join(text.split()).replace("`", "'")
