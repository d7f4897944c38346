"""``lora-mm score``: scores a predictions file. Holds no logic and loads no model."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import parse_path
from lora_mm.printable import echo

app = typer.Typer(help="Score a predictions file with the official protocol of a benchmark.", no_args_is_help=True)


@app.callback()
def score() -> None:
    """Score a predictions file with the official protocol of a benchmark."""


@app.command()
def scienceqa(
    data: Annotated[str, typer.Option(help="ScienceQA: its official folder, a folder of Parquet files, or a Hub id.")],
    predictions: Annotated[
        Path,
        typer.Option(
            parser=parse_path,
            metavar="PATH",
            help='Predictions: a JSON file with {"results": {problem id: index of the choice}}.',
        ),
    ],
    split: Annotated[str, typer.Option(help="Split that the predictions cover.")] = "test",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else to standard output.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score the predictions that exist, even if they do not cover the split.")
    ] = False,
) -> None:
    """Print the official ScienceQA table of a predictions file. Needs no pictures."""
    from lora_mm.data.scienceqa import load_problems
    from lora_mm.evaluation.scienceqa import read_results, score_random_choice
    from lora_mm.evaluation.scienceqa import score_problems as score_predictions
    from lora_mm.evaluation.tables import scores_to_dict, scores_to_table
    from lora_mm.json_text import to_json

    problems = load_problems(data, split, pictures=False).problems
    results = read_results(predictions)
    scores = {
        "random choice": score_random_choice(problems),
        "predictions": score_predictions(problems, results.predictions, partial=partial),
    }
    if as_json:
        account = {"data": data, "split": split, "predictions": str(predictions), "scores": scores_to_dict(scores)}
        echo(to_json({**account, "floats": results.floats, "negatives": results.negatives}))
        return

    from lora_mm.console import PlainConsole

    console = PlainConsole()
    console.print(scores_to_table(scores, title=f"ScienceQA {split}, accuracy in %"))
    if results.account():
        console.print(results.account(), style="dim")
