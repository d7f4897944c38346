"""``lora-mm plan``: estimates memory and time of a run before it starts. Holds no logic."""

from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption, RecipeOption, SetOption
from lora_mm.printable import echo


def plan(
    recipe: RecipeOption,
    overrides: SetOption = [],
    vram: Annotated[
        float | None,
        typer.Option(min=0.0, help="Memory of the GPU in GiB; by default this machine's, or 24 if it has none."),
    ] = None,
    tflops: Annotated[float, typer.Option(min=0.1, help="Speed of the GPU in TFLOP/s, to estimate hours.")] = 50.0,
    as_json: JsonOption = False,
) -> None:
    """Estimate memory and time of training, without the base's weights and without a GPU.

    Exit code 1 if the recipe does not fit with its own settings.
    """
    from lora_mm.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)

    from lora_mm.console import PlainConsole
    from lora_mm.jobs.plan import GIB, format_verdict, get_device_memory, make_memory_table, make_options_table
    from lora_mm.jobs.plan import plan_run as run
    from lora_mm.json_text import to_json

    memory = get_device_memory() if vram is None else vram * GIB
    console = PlainConsole(stderr=as_json)
    with console.status("Measuring steps without weights…"):
        estimate = run(loaded)
    fits = estimate.estimate_memory(estimate.options[0]) <= memory
    console.print(f"{estimate.steps:,} steps on {estimate.examples:,} examples.")
    tables = make_memory_table(estimate), make_options_table(estimate, memory, tflops * 1e12)
    console.print(*tables, *([estimate.quantization] if estimate.quantization else []), sep="\n")
    console.print(f"Hours at {tflops:g} TFLOP/s, without scoring.")
    console.print(format_verdict(estimate, memory), soft_wrap=True)
    if as_json:
        echo(to_json(estimate.as_dict() | {"memory": memory, "fits": fits}))
    if not fits:
        raise typer.Exit(1)
