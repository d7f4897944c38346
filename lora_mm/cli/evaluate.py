"""``lora-mm evaluate``: the score of an adapter, or of its frozen base. Holds no logic."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import AcceptOption, AdapterArgument, JsonOption, SetOption


def evaluate(
    adapter: AdapterArgument,
    overrides: SetOption = [],  # noqa: B006  typer reads it, nobody writes it
    split: Annotated[str | None, typer.Option(help="Split to ask; the recipe's data.eval_split by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask the first so many problems only.")] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Score the frozen base, without the adapter.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="Also write the answers, in the official format.")] = None,
    accept: AcceptOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Score an adapter on its recipe's data by the official protocol."""
    from lora_mm.adapters.sharing import locate
    from lora_mm.job import adapter_recipe, to_json
    from lora_mm.job import evaluate as run
    from lora_mm.recipe import load_recipe

    located = locate(adapter)
    recipe = load_recipe(adapter_recipe(located.folder), overrides)

    from rich.console import Console

    from lora_mm.evaluation.report import as_dict, as_table
    from lora_mm.training.progress import Display

    console = Console(stderr=as_json)
    if located.origin:
        console.print(f"Adapter {located.origin}.", highlight=False, markup=False, soft_wrap=True)
    found = run(
        located.folder,
        recipe,
        split=split or recipe.data.eval_split,
        limit=limit or recipe.data.eval_limit,
        base_only=base_only,
        watch=Display(console).watch,
        accept=[item.value for item in accept],
        say=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if predictions:
        found.scored.write(predictions)
    if as_json:
        print(
            to_json(
                {"adapter": adapter, "commit": located.commit, "rows": found.account, "scores": as_dict(found.scores)}
            )
        )
        return
    console.print(found.account, highlight=False)
    console.print(as_table(found.scores, title=f"ScienceQA {split or recipe.data.eval_split}, accuracy in %"))
