"""A data check for people: on a terminal in colour, elsewhere in plain marks. Knows the report, not how it was made."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_mm.data.check import DataReport, SplitCheck
from lora_mm.errors import truncate_faults

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from lora_mm.data.mask import MaskPiece

_TOLD = 20
"""Faults that are printed; --json has up to a thousand."""


def print_report(report: DataReport, console: "Console") -> None:
    """Print the whole report."""
    from rich.text import Text

    for name, looked in report.splits.items():
        console.print(Text(name, style="bold"))
        for label, what in _facts(looked):
            console.print(Text(f"  {label:<10}{what}"), soft_wrap=True)
    if report.masks:
        coloured = console.is_terminal and console.color_system is not None and not console.no_color
        console.print(Text(f"\nWhat is learnt, by the template of base '{report.base}'", style="bold"))
        for id, pieces in report.masks.items():
            console.print(Text(f"\n{id}", style="cyan"))
            console.print(_mask(pieces, coloured), soft_wrap=True)
        legend = [("\nlearnt", "black on green"), (" not learnt", "dim")]
        console.print(Text.assemble(*legend) if coloured else "\n⟦learnt⟧ not learnt")
    _show_faults(report, console)
    if report.sound:
        console.print(Text("\nSound: a run can take this data.", style="bold green"))


def _show_faults(report: DataReport, console: "Console") -> None:
    from rich.text import Text

    faults = [fault for looked in report.splits.values() for fault in looked.faults.lines]
    rows = sum(looked.faults.rows for looked in report.splits.values())
    if rows:
        fate = "left out, by data.faulty_rows=drop" if report.allowed else "faulty"
        console.print(Text(f"\n{rows:,} row{'s' * (rows != 1)} {fate}", style="bold red"))
        for fault in truncate_faults(faults, _TOLD):
            console.print(Text(f"  {fault}"), soft_wrap=True)
    if report.both:
        such = ", ".join(report.both[:3])
        line = f"\n{report.both_count:,} examples are both to train on and to be asked, such as {such}"
        console.print(Text(line, style="bold red"), soft_wrap=True)


def _facts(looked: SplitCheck) -> Iterator[tuple[str, str]]:
    layouts = ", ".join(dict.fromkeys(looked.layouts))
    yield "rows", f"{looked.rows:,}, of which {looked.usable:,} can be used ({layouts})"
    names = {0: "text only", 1: "one picture"}
    yield "pictures", _mix({names.get(n, f"{n} pictures"): count for n, count in sorted(looked.pictures.items())})
    if set(looked.turns) - {1}:
        yield "turns", _mix({f"{n} of the assistant": count for n, count in sorted(looked.turns.items())})
    if looked.tokens:
        *shares, most = (f"{count:,}" for count in looked.tokens.values())
        middle = ", ".join(f"{p} %: {count}" for p, count in zip(looked.tokens, shares, strict=False))
        yield "tokens", f"{middle}; longest {most} ({looked.longest}); over data.max_length: {looked.overlong:,}"
    if looked.equal_count:
        twins = ", ".join(f"{id} = {before}" for id, before in looked.equal[:3])
        yield "equal", f"{looked.equal_count:,} examples say and show what one before does: {twins}"
    if looked.unread:
        yield "not read", f"columns {', '.join(dict.fromkeys(looked.unread))}"


def _mix(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count:,} ({count / total:.0%})" for name, count in counts.items()) or "none"


def _mask(pieces: "Sequence[MaskPiece]", coloured: bool) -> "Text":
    from rich.text import Text

    if coloured:
        return Text.assemble(*((piece.text, "black on green" if piece.learnt else "dim") for piece in pieces))
    return Text("".join(f"⟦{piece.text}⟧" if piece.learnt else piece.text for piece in pieces))
