"""``lora-mm evaluate``: the score of an adapter, its frozen base, or of two on the same questions. Holds no logic."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import AcceptOption, AdapterArgument, JsonOption, SetOption


def evaluate(
    adapter: AdapterArgument,
    overrides: SetOption = [],
    compare: Annotated[
        str | None,
        typer.Option(help="Ask another adapter too, or the frozen `base`, and test the difference."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to ask; the recipe's data.eval_split by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask the first so many problems only.")] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Score the frozen base, without the adapter.")] = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write the answers: .jsonl, or .json in ScienceQA's official format.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write one HTML page to look at.", metavar="FILE")] = None,
    accept: AcceptOption = [],
    as_json: JsonOption = False,
) -> None:
    """Score an adapter on its recipe's data, by the metric that its recipe names."""
    from rich.console import Console

    from lora_mm.evaluation.report import scores_to_dict, scores_to_table, to_json
    from lora_mm.jobs.evaluate import evaluate as run

    console = Console(stderr=as_json)
    found = run(
        adapter,
        overrides=overrides,
        base_only=base_only,
        compare=compare,
        split=split,
        limit=limit,
        predictions=predictions,
        report=report,
        accept=[item.value for item in accept],
        console=console,
    )
    if as_json:
        facts = {
            "adapter": adapter,
            "commit": found.contenders[0].commit,
            "rows": found.account,
            "scores": scores_to_dict(found.scores),
        }
        facts |= {"comparison": found.comparison.as_dict()} if found.comparison else {}
        print(to_json(facts))
        return
    console.print(found.account, highlight=False)
    console.print(scores_to_table(found.scores, title=found.title))
    for line in found.comparison.sentences() if found.comparison else ():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
