"""``lora-mm score``: official scores of any predictions file. Holds no logic; loads no model."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Score a predictions file as the benchmark's authors do.", no_args_is_help=True)


@app.callback()
def score() -> None:
    """Score a predictions file as the benchmark's authors do."""


@app.command()
def scienceqa(
    data: Annotated[str, typer.Option(help="Official ScienceQA folder, folder of Parquet files, or id on the Hub.")],
    predictions: Annotated[Path, typer.Option(help='Results file: {"results": {problem id: index of the choice}}.')],
    split: Annotated[str, typer.Option(help="Split that the predictions cover.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score what is there, though predictions do not cover the split.")
    ] = False,
) -> None:
    """Official ScienceQA columns of a predictions file. Pictures are not needed."""
    from lora_mm.data.scienceqa import load_problems
    from lora_mm.evaluation.report import scores_to_dict, scores_to_table
    from lora_mm.evaluation.scienceqa import read_results, score_random_choice
    from lora_mm.evaluation.scienceqa import score_problems as score_predictions

    problems = load_problems(data, split, pictures=False).problems
    scores = {
        "random choice": score_random_choice(problems),
        "predictions": score_predictions(problems, read_results(predictions), partial=partial),
    }
    if as_json:
        account = {"data": data, "split": split, "predictions": str(predictions), "scores": scores_to_dict(scores)}
        typer.echo(json.dumps(account, ensure_ascii=False))
        return

    from rich.console import Console

    Console().print(scores_to_table(scores, title=f"ScienceQA {split}, accuracy in %"))
