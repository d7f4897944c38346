"""``lora-mm plan``: memory and work of a run before it. Holds no logic."""

from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption, RecipeOption, SetOption


def plan(
    recipe: RecipeOption,
    overrides: SetOption = [],
    vram: Annotated[
        float | None,
        typer.Option(min=0.0, help="GiB of the card; of this machine's by default, or 24 where it has none."),
    ] = None,
    tflops: Annotated[float, typer.Option(min=0.1, help="What the card keeps up, in TFLOP/s, for the time.")] = 50.0,
    as_json: JsonOption = False,
) -> None:
    """Tell what memory and time training takes, without the base's weights and without a GPU.

    Exit code 1 when the recipe as it stands does not fit.
    """
    from lora_mm.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)

    from rich.console import Console

    from lora_mm.evaluation.report import to_json
    from lora_mm.jobs.plan import GIB, format_verdict, get_device_memory, make_needs_table, make_ways_table
    from lora_mm.jobs.plan import plan_run as run

    memory = get_device_memory() if vram is None else vram * GIB
    console = Console(stderr=as_json)
    with console.status("Taking steps without weights…"):
        found = run(loaded)
    fits = found.needed(found.ways[0]) <= memory
    console.print(f"{found.steps:,} steps on {found.examples:,} examples.", highlight=False)
    console.print(make_needs_table(found), make_ways_table(found, memory, tflops * 1e12), sep="\n")
    console.print(f"Hours at {tflops:g} TFLOP/s; scoring is not in them.", highlight=False)
    console.print(format_verdict(found, memory), highlight=False, soft_wrap=True)
    if as_json:
        print(to_json(found.as_dict() | {"memory": memory, "fits": fits}))
    if not fits:
        raise typer.Exit(1)
