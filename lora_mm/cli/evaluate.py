"""``lora-mm evaluate``: scores an adapter or its frozen base, or compares two models. Holds no logic."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import AcceptOption, AdapterArgument, JsonOption, SetOption, parse_path
from lora_mm.printable import echo


def evaluate(
    adapter: AdapterArgument,
    overrides: SetOption = [],
    compare: Annotated[
        str | None,
        typer.Option(help="Also score another adapter, or the frozen `base`, and test the difference."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to score; the recipe's data.eval_split by default.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of questions, from the first of the split.")
    ] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Score the frozen base, without the adapter.")] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Also write the answers: .jsonl, or .json in ScienceQA's official format.",
            metavar="FILE",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Also write a report: one HTML page.", metavar="FILE")
    ] = None,
    accept: AcceptOption = [],
    as_json: JsonOption = False,
) -> None:
    """Score an adapter on its recipe's data, by its recipe's metric."""
    from lora_mm.console import PlainConsole
    from lora_mm.evaluation.tables import scores_to_dict, scores_to_table
    from lora_mm.jobs.evaluate import evaluate as run
    from lora_mm.json_text import to_json

    console = PlainConsole(stderr=as_json)
    evaluation = run(
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
            "commit": evaluation.contenders[0].commit,
            "rows": evaluation.account,
            "scores": scores_to_dict(evaluation.scores),
        }
        facts |= {"comparison": evaluation.comparison.as_dict()} if evaluation.comparison else {}
        echo(to_json(facts))
        return
    console.print(evaluation.account, soft_wrap=True)
    console.print(scores_to_table(evaluation.scores, title=evaluation.title))
    for line in evaluation.comparison.sentences() if evaluation.comparison else ():
        console.print(line, soft_wrap=True)
