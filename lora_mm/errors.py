"""The two ways a run ends early with a message instead of a traceback. Knows nothing about what failed."""

import difflib
from collections.abc import Sequence


class LoraMMError(Exception):
    """A failure to report in one or two lines: the thing, the place and the way out. Exit code 1: the run failed."""

    exit_code = 1


class InputError(LoraMMError):
    """The user's input (command line, recipe, data or adapter folder) cannot be used. Exit code 2.

    ``faults`` holds one line per fault, so that everything wrong is told at once.
    """

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def suggest_name(name: str, known: Sequence[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name closest to ``name``; empty when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def truncate_faults(faults: Sequence[str], enough: int = 10) -> list[str]:
    """The first ``enough`` faults and, where there are more, a line that says how many."""
    rest = len(faults) - enough
    return [*faults[:enough], *([f"… and {rest:,} more"] if rest > 0 else [])]
