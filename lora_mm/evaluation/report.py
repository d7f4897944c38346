"""Scores as a table to look at, as JSON and as Markdown. Knows scores and their columns, not where they came from."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lora_mm.evaluation.scienceqa import COLUMNS, Score

if TYPE_CHECKING:
    from rich.table import Table

_TITLE = "ScienceQA accuracy in %"


def as_table(scores: Mapping[str, Score], title: str = _TITLE) -> "Table":
    """The named scores as rows under the official columns, with the number of problems above and the notes below.

    Fits 80 columns with names of up to 16 characters. Print it with a ``rich.console.Console``, which leaves colours
    out where the output is no terminal or ``NO_COLOR`` is set.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        caption=Text("\n".join(notes(scores))),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for label, cells, counts in _rows(scores):
        table.add_row(Text(label), *cells, style="dim" if counts else None)
    return table


def as_dict(scores: Mapping[str, Score]) -> dict[str, Any]:
    """The named scores as JSON values; accuracies in percent with the two decimals of the table, null for ``–``."""
    return {
        label: {
            "columns": {
                name: {
                    "accuracy": None if tally.accuracy is None else float(tally.text),
                    "correct": round(tally.correct, 6),
                    "total": tally.total,
                }
                for name, tally in score.columns.items()
            },
            "unparsed": score.unparsed,
            "missing": score.missing,
            "unknown": score.unknown,
        }
        for label, score in scores.items()
    }


def as_markdown(scores: Mapping[str, Score]) -> str:
    """The named scores as a GitHub table, the notes below it; for model cards. Ends with a line break."""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    lines += [f"| {label.replace('|', chr(92) + '|')} | {' | '.join(cells)} |" for label, cells, _ in _rows(scores)]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes(scores))


def notes(scores: Mapping[str, Score]) -> list[str]:
    """What the accuracies alone do not say: unparsed answers of every row that has answers, and uneven coverage."""
    unparsed = [f"{label} {score.unparsed:,}" for label, score in scores.items() if score.unparsed is not None]
    lines = [f"Unparsed answers, counted as wrong: {', '.join(unparsed)}."] if unparsed else []
    for label, score in scores.items():
        if score.missing or score.unknown:
            lines.append(
                f"{label}: not the official score. Problems without a prediction, not counted: {score.missing:,}; "
                f"predictions for no problem of the split: {score.unknown:,}."
            )
    return lines


def _rows(scores: Mapping[str, Score]) -> Iterator[tuple[str, list[str], bool]]:
    """Label, cells, and whether the cells are counts: problems are counted wherever they differ from the row before."""
    before: list[str] = []
    for label, score in scores.items():
        totals = [f"{score.columns[name].total:,}" for name in COLUMNS]
        if totals != before:
            yield "problems", totals, True
            before = totals
        yield label, [score.columns[name].text for name in COLUMNS], False
