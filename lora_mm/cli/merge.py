"""``lora-mm merge``: merges adapters into their base, or converts them to a stock LoRA. Holds no logic."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import AdaptersArgument, JsonOption, SetOption, parse_path
from lora_mm.printable import echo


class Format(StrEnum):
    """Format of the files."""

    model = "model"
    lora = "lora"


class Precision(StrEnum):
    """Data type of the files."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def merge(
    adapters: AdaptersArgument,
    output: Annotated[Path, typer.Option(parser=parse_path, metavar="PATH", help="Folder to make.")],
    modality: Annotated[
        str | None, typer.Option(help="Modality to merge for, with MMA: image or text.", metavar="MODALITY")
    ] = None,
    format: Annotated[
        Format, typer.Option("--as", help="Format: a plain transformers checkpoint, or a stock PEFT LoRA.")
    ] = Format.model,
    dtype: Annotated[
        Precision | None,
        typer.Option(help="Data type of the files; by default the base's for a model, float32 for a LoRA."),
    ] = None,
    overrides: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Merge adapters, in this order, into their base or into a stock LoRA, and verify the result by its logits."""
    from lora_mm.console import PlainConsole
    from lora_mm.jobs.merge import merge as run
    from lora_mm.json_text import to_json

    console = PlainConsole(stderr=as_json)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    result = run(
        adapters,
        output,
        overrides=overrides,
        format=format.value,
        modality=modality,
        dtype=dtype.value if dtype else None,
        say=say,
    )
    if as_json:
        echo(to_json(result.as_dict()))
        return
    say(f"Wrote {result.output}.")
