"""``lora-mm data``: data to try things on. Holds no logic; never imports torch."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make data sets to try things on.", no_args_is_help=True)


class World(StrEnum):
    """Data sets that lora-mm can draw."""

    pocket = "pocket"
    details = "pocket-details"
    captions = "pocket-captions"
    short_answers = "pocket-short-answers"
    charts = "pocket-charts"
    labels = "pocket-labels"


@app.callback()
def data() -> None:
    """Make data sets to try things on."""


@app.command()
def make(
    world: Annotated[World, typer.Argument(help="What to draw.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another world.")] = 0,
    size: Annotated[int, typer.Option(min=100, help="Problems or rows in all.")] = 6000,
) -> None:
    """Draw problems in ScienceQA's templates and folder layout (pocket, pocket-details), or rows as JSON lines."""
    from lora_mm.pocket.plain import PLAIN, make_rows

    if world.value in PLAIN:
        counts = make_rows(output, world.value, seed=seed, size=size)
        print(f"Wrote {output}: {counts['train']:,} rows to train on, {counts['test']:,} to be asked, seed {seed}.")
        return
    from lora_mm.pocket.world import make_world

    made = make_world(output, world=world.value, seed=seed, size=size)
    splits = ", ".join(f"{count:,} {split}" for split, count in made.problems.items())
    print(f"Wrote {made.output}: {splits} problems of {made.templates} kinds, {made.pictures:,} pictures, seed {seed}.")
