"""``lora-mm data``: checks and previews data before a run, makes pocket data sets. Holds no logic."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption, SetOption, complete_recipe, parse_path
from lora_mm.printable import echo

app = typer.Typer(help="Check and preview data before a run; make data sets to experiment with.", no_args_is_help=True)

DataArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe; or path or Hub id of a data set, which is then read for the pocket base.",
        metavar="RECIPE|PATH",
        autocompletion=complete_recipe,
    ),
]


class World(StrEnum):
    """Data sets that lora-mm can make."""

    pocket = "pocket"
    details = "pocket-details"
    captions = "pocket-captions"
    short_answers = "pocket-short-answers"
    charts = "pocket-charts"
    labels = "pocket-labels"


@app.callback()
def data() -> None:
    """Check and preview data before a run; make data sets to experiment with."""


@app.command()
def check(
    data: DataArgument,
    overrides: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Read every row, open every picture, count every token; show supervised tokens. Exit code 2 on any fault."""
    from lora_mm.console import PlainConsole, to_text
    from lora_mm.data.check import check_data, load_recipe_or_path
    from lora_mm.data.check_text import print_report
    from lora_mm.jobs.session import make_collator_without_weights
    from lora_mm.json_text import to_json

    recipe, splits = load_recipe_or_path(data, overrides)
    console = PlainConsole(stderr=as_json)
    with console.status("") as status:
        collator = make_collator_without_weights(recipe)
        report = check_data(recipe, splits, collator, lambda what: status.update(to_text(what)))
    if as_json:
        echo(to_json(report.as_dict()))
    else:
        print_report(report, console)
    if not report.sound:
        raise typer.Exit(2)


@app.command()
def preview(
    data: DataArgument,
    output: Annotated[Path, typer.Option(parser=parse_path, metavar="PATH", help="HTML file to write.")],
    overrides: SetOption = [],
    split: Annotated[str | None, typer.Option(help="Split to show; the training split by default.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of rows on the page, spread evenly over the split.")] = 24,
) -> None:
    """Write one HTML page with rows: their pictures, their turns, and which tokens are supervised."""
    from lora_mm.data.check import load_recipe_or_path
    from lora_mm.jobs.preview import write_page
    from lora_mm.jobs.session import make_collator_without_weights

    recipe, _ = load_recipe_or_path(data, overrides)
    rows = write_page(
        output, recipe, split or recipe.data.train_split, make_collator_without_weights(recipe), count=limit
    )
    echo(f"Wrote {output}: {rows} rows, {output.stat().st_size / 1000:.0f} KB.")


@app.command()
def make(
    world: Annotated[World, typer.Argument(help="Data set to make.")],
    output: Annotated[Path, typer.Option(parser=parse_path, metavar="PATH", help="Folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the data set.")] = 0,
    size: Annotated[int, typer.Option(min=100, help="Number of problems or rows in total.")] = 6000,
) -> None:
    """Make problems in ScienceQA's templates and folder layout (pocket, pocket-details), or rows as JSON lines."""
    from lora_mm.pocket.own_data import OWN_DATA_SETS, make_own_data

    if world.value in OWN_DATA_SETS:
        counts = make_own_data(output, world.value, seed=seed, size=size)
        echo(f"Wrote {output}: {counts['train']:,} training rows, {counts['test']:,} test rows, seed {seed}.")
        return
    from lora_mm.pocket.world import make_world

    made = make_world(output, name=world.value, seed=seed, size=size)
    splits = ", ".join(f"{count:,} {split}" for split, count in made.problems.items())
    echo(f"Wrote {made.output}: {splits} problems of {made.templates} kinds, {made.pictures:,} pictures, seed {seed}.")
