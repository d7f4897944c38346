"""``lora-mm merge``: adapters into their base's weights, or out to a stock LoRA. Holds no logic."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import AdaptersArgument, JsonOption, SetOption


class Form(StrEnum):
    """What to write."""

    model = "model"
    lora = "lora"


class Precision(StrEnum):
    """Of the files."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def merge(
    adapters: AdaptersArgument,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    modality: Annotated[
        str | None,
        typer.Option(help="What MMA on the language model is merged for: image or text.", metavar="MODALITY"),
    ] = None,
    form: Annotated[
        Form, typer.Option("--as", help="A plain transformers checkpoint, or a stock PEFT LoRA.")
    ] = Form.model,
    dtype: Annotated[
        Precision | None, typer.Option(help="Of the files: by default the base's for a model, float32 for a LoRA.")
    ] = None,
    overrides: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Merge adapters, in this order, into their base or out to a stock LoRA; the result is verified by its logits."""
    from lora_mm.artifact.hub import find_adapter
    from lora_mm.evaluation.report import to_json
    from lora_mm.jobs.session import find_adapter_recipe
    from lora_mm.recipe.load import load_recipe

    folders = [find_adapter(adapter) for adapter in adapters]
    recipes = [load_recipe(find_adapter_recipe(folder), overrides) for folder in folders]

    from rich.console import Console

    from lora_mm.jobs.merge import merge as run

    console = Console(stderr=as_json)
    merged = run(
        folders,
        recipes,
        output,
        form=form.value,
        modality=modality,
        dtype=dtype.value if dtype else None,
        say=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        print(to_json(merged.as_dict()))
        return
    console.print(f"Wrote {merged.output}.", highlight=False, markup=False, soft_wrap=True)
