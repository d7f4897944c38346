"""Prints the report of a data check, in colour on a terminal. Knows the report, not how it was made."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from lora_mm.console import to_text
from lora_mm.data.check import DataReport, SplitCheck
from lora_mm.data.mask import MaskPiece
from lora_mm.errors import truncate_faults

_PRINTED_FAULTS = 20
"""Maximum number of faults to print; ``--json`` has up to a thousand."""
_PRINTED_EXAMPLES = 3


def print_report(report: DataReport, console: Console) -> None:
    """Print the whole report.

    Args:
        report: report of the check.
        console: console to print to.
    """
    for name, check in report.splits.items():
        console.print(to_text(name, "bold"))
        for label, fact in _list_facts(check):
            console.print(to_text(f"  {label:<11}{fact}"), soft_wrap=True)
    if report.masks:
        _print_masks(report, console)
    _print_faults(report, console)
    if report.sound:
        console.print(to_text("\nSound: a run can use this data.", "bold green"))


def _print_masks(report: DataReport, console: Console) -> None:
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    console.print(to_text(f"\nSupervised tokens, with the chat template of base '{report.base}'", "bold"))
    for id, pieces in report.masks.items():
        console.print(to_text(f"\n{id}", "cyan"))
        console.print(_format_mask(pieces, coloured), soft_wrap=True)
    legend = [("\nsupervised", "black on green"), (" not supervised", "dim")]
    console.print(Text.assemble(*legend) if coloured else "\n⟦supervised⟧ not supervised")


def _print_faults(report: DataReport, console: Console) -> None:
    faults = [fault for check in report.splits.values() for fault in check.faults.lines]
    rows = sum(check.faults.rows for check in report.splits.values())
    if rows:
        dropped = ", dropped (data.faulty_rows=drop)" if report.drops_faulty_rows else ""
        console.print(to_text(f"\n{_count(rows, 'faulty row')}{dropped}", "bold red"))
        for fault in truncate_faults(faults, _PRINTED_FAULTS):
            console.print(to_text(f"  {fault}"), soft_wrap=True)
    for name, check in report.splits.items():
        if not check.usable:
            line = f"\n{name}: no row is left; all are faulty or over data.max_length"
            console.print(to_text(line, "bold red"), soft_wrap=True)
    if report.overlap:
        ids = ", ".join(report.overlap[:_PRINTED_EXAMPLES])
        line = f"\n{_count(report.overlap_count, 'example')} in both the training and the evaluation split: {ids}"
        console.print(to_text(line, "bold red"), soft_wrap=True)


def _list_facts(check: SplitCheck) -> Iterator[tuple[str, str]]:
    layouts = ", ".join(dict.fromkeys(check.layouts))
    yield "rows", f"{check.rows:,}, {check.usable:,} usable ({layouts})"
    if check.train_only:
        yield "no rows of", f"{', '.join(check.train_only)}, for training only"
    names = {0: "text only", 1: "one picture"}
    yield "pictures", _format_shares({names.get(n, f"{n} pictures"): c for n, c in sorted(check.pictures.items())})
    if check.cut_off.get(100):
        middle, most = check.cut_off[50], check.cut_off[100]
        yield (
            "cut off",
            f"{middle:.0%} of a picture's area at the median, at most {most:.0%}; data.pictures.fit=pad keeps it all",
        )
    if set(check.turns) - {1}:
        yield "turns", _format_shares({_count(n, "assistant turn"): c for n, c in sorted(check.turns.items())})
    if check.tokens:
        *percentiles, longest = (f"{p} %: {count:,}" for p, count in check.tokens.items())
        longest = longest.removeprefix("100 %: ")
        yield (
            "tokens",
            f"{', '.join(percentiles)}; longest {longest} ({check.longest}); over data.max_length: {check.overlong:,}",
        )
    if check.duplicate_count:
        pairs = ", ".join(f"{id} = {earlier}" for id, earlier in check.duplicates[:_PRINTED_EXAMPLES])
        yield "duplicates", f"{_count(check.duplicate_count, 'example')} equal to an earlier one: {pairs}"
    if check.unread_columns:
        yield "unread", f"columns {', '.join(dict.fromkeys(check.unread_columns))}"


def _format_shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count:,} ({count / total:.0%})" for name, count in counts.items()) or "none"


def _format_mask(pieces: Sequence[MaskPiece], coloured: bool) -> Text:
    if coloured:
        styles = ("dim", "black on green")
        return Text.assemble(*(to_text(piece.text, styles[piece.supervised]) for piece in pieces))
    return to_text("".join(f"⟦{piece.text}⟧" if piece.supervised else piece.text for piece in pieces))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
