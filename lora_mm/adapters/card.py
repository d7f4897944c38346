"""The model card of an adapter folder, from what was measured. Knows text; computes nothing."""

from collections.abc import Mapping

_CARD = """\
---
base_model: {base}
library_name: peft
license: other
pipeline_tag: image-text-to-text
tags:
- lora-mm
- multimodal
{tags}
---

# {name}

{summary}

Adapter for `{base}`{revision}, trained with [lora-mm](https://pypi.org/project/lora-mm/) {version}: {trained:,} trained
parameters, {size} on disk. The resolved recipe is in `recipe.yaml`.

## Scores

{scores}

## Load it

```python
{load}
```

Score it again with `lora-mm evaluate {folder}`.

## What was trained

{parts}
"""

_LOAD_ROUTED = """\
import lora_mm.adapters.tuner  # without this, PEFT says: KeyError 'ROUTED'
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "{folder}")"""

_LOAD_STOCK = """\
from peft import PeftModel  # a stock LoRA: lora-mm is not needed

model = PeftModel.from_pretrained(base_model, "{folder}")"""


def model_card(
    *,
    name: str,
    summary: str,
    base: str,
    revision: str | None,
    version: str,
    methods: list[str],
    stock: bool,
    trained: int,
    size: str,
    scores: str,
    parts: Mapping[str, tuple[int, int, int]],
    folder: str,
) -> str:
    """The card as Markdown with the Hub's metadata on top.

    Args:
        stock: whether the adapter is a stock PEFT LoRA.
        scores: a Markdown table of what was measured, and on what.
        parts: part → (parameters, trained, bytes).
    """
    rows = "\n".join(f"| {part} | {total:,} | {count:,} |" for part, (total, count, _) in parts.items())
    return _CARD.format(
        name=name,
        summary=summary,
        base=base,
        revision=f" at revision `{revision}`" if revision else "",
        version=version,
        tags="\n".join(f"- {method}" for method in dict.fromkeys(methods)) or "- connector",
        trained=trained,
        size=size,
        scores=scores,
        load=(_LOAD_STOCK if stock else _LOAD_ROUTED).format(folder=folder),
        parts=f"| part | parameters | trained |\n|---|---:|---:|\n{rows}",
        folder=folder,
    )
