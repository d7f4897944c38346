"""Scores as a table to look at, as JSON and as Markdown. Knows scores and their columns, not where they came from."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lora_mm.evaluation.score import Score

if TYPE_CHECKING:
    from rich.console import Group

_TITLE = "ScienceQA, accuracy in %"


def scores_to_table(scores: Mapping[str, Score], title: str = _TITLE) -> "Group":
    """The named scores as rows under their columns, with the number of problems above and the notes below.

    ScienceQA's fits 80 columns with names of up to 16 characters. Print it with a ``rich.console.Console``, which
    leaves colours out where the output is no terminal or ``NO_COLOR`` is set.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for name in list_columns(scores):
        table.add_column(name, justify="right", no_wrap=True)
    for label, cells, counts in list_rows(scores):
        table.add_row(Text(label), *cells, style="dim" if counts else None)
    below = [Text(note, style="dim") for note in list_notes(scores)]
    return Group(Text(title, style="italic"), table, *below)  # a table's own title and caption are no wider than it


def scores_to_dict(scores: Mapping[str, Score]) -> dict[str, Any]:
    """The named scores as JSON values; figures with the two decimals of the table, null for ``–``."""
    return {
        label: {
            "columns": {name: figure.as_dict() for name, figure in score.columns.items()},
            "headline": score.main,
            "unparsed": score.unparsed,
            "missing": score.missing,
            "unknown": score.unknown,
        }
        for label, score in scores.items()
    }


def scores_to_markdown(scores: Mapping[str, Score]) -> str:
    """The named scores as a GitHub table, the notes below it; for model cards. Ends with a line break."""
    columns = list_columns(scores)
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {label.replace('|', chr(92) + '|')} | {' | '.join(cells)} |" for label, cells, _ in list_rows(scores)]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in list_notes(scores))


def list_notes(scores: Mapping[str, Score]) -> list[str]:
    """What the figures alone do not say: intervals, unparsed answers of every row that has some, uneven coverage."""
    lines = []
    intervals = [
        f"{label} {interval[0]:.1f} to {interval[1]:.1f}"
        for label, score in scores.items()
        if (interval := score.columns[score.main].interval)
    ]
    if intervals:
        lines.append(f"95 % interval of {next(iter(scores.values())).main}: {', '.join(intervals)}.")
    unparsed = [f"{label} {score.unparsed:,}" for label, score in scores.items() if score.unparsed is not None]
    if unparsed:
        lines.append(f"Unparsed answers, counted as wrong: {', '.join(unparsed)}.")
    for label, score in scores.items():
        if score.missing or score.unknown:
            lines.append(
                f"{label}: not the official score. Problems without a prediction, not counted: {score.missing:,}; "
                f"predictions for no problem of the split: {score.unknown:,}."
            )
    return lines


def list_columns(scores: Mapping[str, Score]) -> list[str]:
    """Names of the columns of a table; a row may lack some."""
    return list(dict.fromkeys(name for score in scores.values() for name in score.columns))


def list_rows(scores: Mapping[str, Score]) -> Iterator[tuple[str, list[str], bool]]:
    """Label, cells, and whether the cells are counts: problems are counted wherever they differ from the row before."""
    columns = list_columns(scores)
    before: list[str] = []
    for label, score in scores.items():
        shown = [score.columns.get(name) for name in columns]
        totals = [f"{figure.total:,}" if figure else "" for figure in shown]
        if totals != before:
            yield "problems", totals, True
            before = totals
        yield label, [figure.text if figure else "" for figure in shown], False


def to_json(value: Any) -> str:
    """One line of JSON, letters as they are."""
    return json.dumps(value, ensure_ascii=False)
