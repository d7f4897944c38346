"""Spells out what must not reach a terminal as it is, and prints lines. Knows no colours and no tables."""

import os
import re
import sys
from typing import TextIO

from lora_mm.errors import LoraMMError

OUTPUT_CLOSED = 141
"""Exit code of a program whose output nobody reads any more: 128 + 13, the number of SIGPIPE."""

_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff"
"""C0 and C1 control characters but tab and line breaks, and lone surrogates, as a character class."""
_CONTROL_CHARACTER = re.compile(f"[{_CONTROL}]")
# A carriage return writes over the line, and the other characters reverse or break it.
_UNPRINTABLE = re.compile(f"[{_CONTROL}\\r\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def find_control_character(text: str) -> re.Match[str] | None:
    """Find the first control character or lone surrogate. Tab and line breaks do not count."""
    return _CONTROL_CHARACTER.search(text)


def to_printable(text: str) -> str:
    r"""Spell out the characters that command a terminal, such as ``\x1b``. Line feed and tab stay as they are.

    The escapes are those of Python strings.
    """
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def escape_for_json(text: str) -> str:
    """Escape in JSON what :func:`to_printable` spells out elsewhere; the value that is read stays the same."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def echo(text: str = "", *, end: str = "\n", stderr: bool = False) -> None:
    """Print a text by :func:`to_printable`, at once.

    If the reader of the output is gone, the program ends with :data:`OUTPUT_CLOSED` and without a word, as others do in
    a pipe; what cannot be written to standard error is lost.

    Args:
        text: the text.
        end: printed after it.
        stderr: whether to print to standard error.

    Raises:
        LoraMMError: standard output cannot be written, because a disk is full.
    """
    stream = sys.stderr if stderr else sys.stdout
    try:
        print(to_printable(text), end=end, file=stream, flush=True)
    except OSError as error:
        discard_output(stream)
        if stderr:
            return
        if isinstance(error, BrokenPipeError):
            raise SystemExit(OUTPUT_CLOSED) from None
        raise LoraMMError(f"Standard output: cannot be written: {error.strerror or error}.") from error


def discard_output(stream: TextIO) -> None:
    """Send the rest of a stream that cannot be written nowhere; Python would fail when it flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
