"""``lora-mm finetune``: trains and scores an adapter. Holds no logic."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption, RecipeOption, SetOption, complete_logger, parse_path
from lora_mm.printable import echo


def finetune(
    recipe: RecipeOption,
    overrides: SetOption = [],
    output: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="PATH", help="Adapter folder to write; runs/RECIPE by default."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, or start it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder first.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything up to the first training step; write nothing.")
    ] = False,
    report_to: Annotated[
        str | None,
        typer.Option(
            help="Log to tensorboard, wandb, mlflow, trackio, …; short for --set training.report_to=NAME.",
            metavar="NAME",
            autocompletion=complete_logger,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune as a recipe says, score base and adapter, and write the adapter folder."""
    from lora_mm.recipe.load import load_recipe

    settings = [*overrides, *([f"training.report_to={report_to}"] if report_to else [])]
    loaded = load_recipe(recipe, settings)  # faults show before torch is imported

    from lora_mm.console import PlainConsole
    from lora_mm.evaluation.tables import scores_to_dict
    from lora_mm.jobs.finetune import finetune as run
    from lora_mm.jobs.run_folder import REPORT
    from lora_mm.json_text import to_json

    console = PlainConsole(stderr=as_json)
    result = run(recipe, output, console, overrides=settings, resume=resume, overwrite=overwrite, dry_run=dry_run)
    if result is None:
        if as_json:
            echo(to_json({"dry_run": True, "recipe": loaded.model_dump(mode="json")}))
        return
    figures = result.figures
    console.print(
        f"{figures['steps']} steps in {figures['train_seconds']:.0f} s, {figures['samples_per_second']} samples/s; "
        f"adapter {figures['adapter_bytes'] / 1000:.0f} KB in {result.folder}, with {REPORT}",
        soft_wrap=True,
    )
    if as_json:
        echo(to_json({"folder": str(result.folder), "scores": scores_to_dict(result.scores), "figures": figures}))
