"""The two errors that end a run with a message instead of a traceback. Knows nothing about what failed."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LONG_WORD = re.compile(r"\S{400,}")


class LoraMMError(Exception):
    """A failed run. The message has one or two lines: what failed, where, and what to do. Exit code 1."""

    exit_code = 1


class InputError(LoraMMError):
    """Unusable input: command line, recipe, data or adapter folder. Exit code 2.

    Args:
        faults: one line for each fault, so that all are reported at once. A longer word than any path or name, which a
            line may quote from broken data, is cut.
    """

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        self.faults = tuple(_LONG_WORD.sub(lambda word: shorten(word[0]), fault) for fault in faults)
        super().__init__("\n".join(self.faults))


@contextmanager
def name_place(place: object) -> Iterator[None]:
    """Begin each fault of an InputError inside the block with ``place: ``, such as the file that is read."""
    try:
        yield
    except InputError as error:
        raise InputError(*(f"{place}: {fault}" for fault in error.faults)) from error


def suggest_name(name: str, known: Sequence[str]) -> str:
    """A suggestion for a name that is unknown.

    Args:
        name: the unknown name.
        known: the known names.

    Returns:
        ``" Did you mean 'x'?"`` with the closest known name, or an empty string if none is close.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def shorten(text: str, length: int = 100) -> str:
    """Cut a text that a message quotes."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def truncate_faults(faults: Sequence[str], limit: int = 10) -> list[str]:
    """Shorten a list of faults.

    Args:
        faults: all faults.
        limit: number of faults to keep.

    Returns:
        The first ``limit`` faults, and a line with the number of the others, if any.
    """
    rest = len(faults) - limit
    return [*faults[:limit], *([f"… and {rest:,} more"] if rest > 0 else [])]
