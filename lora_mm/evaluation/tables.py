"""Tables of scores: for the terminal, as Markdown and as JSON values. Knows scores and columns, not their origin."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lora_mm.evaluation.score import Score

if TYPE_CHECKING:
    from rich.console import Group


def scores_to_table(scores: Mapping[str, Score], title: str = "ScienceQA, accuracy in %") -> "Group":
    """Make a table to print with a ``rich.console.Console``.

    ScienceQA's columns fit a terminal of 80 characters, with row names of up to 16 characters.

    Args:
        scores: name of the row → score.
        title: line above the table.

    Returns:
        The table, with the number of problems above the rows and the notes below.
    """
    from rich.console import Group
    from rich.table import Table

    from lora_mm.console import to_text

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for name in list_columns(scores):
        table.add_column(to_text(name), justify="right", no_wrap=True)
    for label, cells, are_counts in list_rows(scores):
        table.add_row(to_text(label), *cells, style="dim" if are_counts else None)
    notes = [to_text(note, "dim") for note in list_notes(scores)]
    return Group(to_text(title, "italic"), table, *notes)  # a table wraps its own title and caption to its width


def scores_to_dict(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Convert named scores to JSON values; figures have two decimals as in the table, and null for ``–``."""
    return {
        label: {
            "columns": {name: figure.as_dict() for name, figure in score.columns.items()},
            "headline": score.headline_column,
            "unparsed": score.unparsed,
            "missing": score.missing,
            "unknown": score.unknown,
        }
        for label, score in scores.items()
    }


def scores_to_markdown(scores: Mapping[str, Score]) -> str:
    """Write named scores as a GitHub table with the notes below, for model cards; ends with a line break."""
    columns = list_columns(scores)
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {label.replace('|', chr(92) + '|')} | {' | '.join(cells)} |" for label, cells, _ in list_rows(scores)]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in list_notes(scores))


def list_notes(scores: Mapping[str, Score]) -> list[str]:
    """List intervals, numbers of unparsed answers, and incomplete coverage of the split, as lines of text."""
    lines = []
    intervals = [
        f"{label} {interval[0]:.1f} to {interval[1]:.1f}"
        for label, score in scores.items()
        if (interval := score.columns[score.headline_column].interval)
    ]
    if intervals:
        lines.append(f"95 % interval of {next(iter(scores.values())).headline_column}: {', '.join(intervals)}.")
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
    """List the names of the columns of all rows; a row may lack some."""
    return list(dict.fromkeys(name for score in scores.values() for name in score.columns))


def list_rows(scores: Mapping[str, Score]) -> Iterator[tuple[str, list[str], bool]]:
    """Yield the rows of the table, with a row of problem counts wherever the counts change.

    Args:
        scores: name of the row → score.

    Yields:
        The row's label, its cells, and whether the cells are counts.
    """
    columns = list_columns(scores)
    previous: list[str] = []
    for label, score in scores.items():
        figures = [score.columns.get(name) for name in columns]
        totals = [f"{figure.total:,}" if figure else "" for figure in figures]
        if totals != previous:
            yield "problems", totals, True
            previous = totals
        yield label, [figure.text if figure else "" for figure in figures], False
