"""Reads rows of JSON, JSON lines and CSV files one at a time, by an index of their positions. Knows no layouts.

``datasets`` wants one schema for a whole file (it makes the id ``"2"`` a number beside others), turns a CSV's ``None``
and ``NA`` into null, and does not say which row is broken. The index takes one pass and 12 bytes a row.
"""

import codecs
import contextlib
import csv
import io
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from lora_mm.errors import InputError
from lora_mm.json_text import parse_json
from lora_mm.paths import describe_conversion, describe_encoding_error

_CHUNK = 1 << 20
"""Number of bytes of a JSON list that are scanned at once."""


@dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of one text file.

    Attributes:
        path: the file.
        starts: position in bytes of each row, then of the end of the file: one more than there are rows.
        lines: line of each row, counted from 1.
        parse: parses the text of a row into column → value.
    """

    path: Path
    starts: array
    lines: array
    parse: Callable[[str], Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Name of the file, for messages."""
        return self.path.name

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        try:
            with self.path.open("rb") as stream:  # for each row: workers would share an open file's position
                stream.seek(self.starts[row])
                encoded = stream.read(self.starts[row + 1] - self.starts[row])
            return self.parse(encoded.decode("utf-8"))
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise InputError(describe_encoding_error(error, "of the row")) from error

    def where(self, row: int) -> str:
        """Name a row for messages: ``file:line``."""
        return f"{self.name}:{self.lines[row]}"


def parse_json_object(text: str) -> dict[str, Any]:
    """Parse one JSON object; an item of a list may end with its comma.

    Raises:
        InputError: the text is not a JSON object, or see :func:`~lora_mm.json_text.parse_json`.
    """
    value = parse_json(text.strip().removesuffix(","))
    if not isinstance(value, dict):
        raise InputError(f"a JSON {type(value).__name__}, not an object")
    return value


def _index_json_lines(path: Path) -> FileRows:
    starts, lines = array("Q"), array("I")
    position = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                starts.append(position + len(line) - len(content))
                lines.append(number)
            position += len(line)
    starts.append(position)
    return FileRows(path, starts, lines, parse_json_object)


def _index_json_file(path: Path) -> FileRows:
    """Index a list of objects, or JSON lines, which are often named ``.json`` too."""
    with path.open("rb") as stream:
        begin = stream.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"["):
        return _index_json_list(path)
    if begin.startswith(b"{"):
        with contextlib.suppress(InputError, UnicodeDecodeError):
            parse_json_object(begin.splitlines()[0].decode("utf-8"))
            return _index_json_lines(path)
        raise InputError(f"{path}: one JSON object, not a list of rows; write [{{…}}, {{…}}], or one object a line.")
    try:
        begin[:1].decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; {describe_conversion(begin)}") from None
    raise InputError(f"{path}: neither a JSON list of rows nor one object a line.")


class _Scanner:
    """Scans a text file in pieces.

    ``text`` is the piece in memory and ``at`` the next character in it; ``position`` and ``line`` are the byte and the
    line of that character in the file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.line = stream, "", 0, 1
        self.position = len(codecs.BOM_UTF8) if stream.read(3) == codecs.BOM_UTF8 else 0
        stream.seek(self.position)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def read_on(self) -> bool:
        """Drop the text before ``at`` and read on, at least as much as remains; False at the end of the file."""
        chunk = self.stream.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + self._decode(chunk, final=not chunk), 0
        return bool(chunk)

    def advance(self, end: int) -> None:
        """Move to ``end`` in ``text``."""
        passed = self.text[self.at : end]
        self.position += len(passed) if passed.isascii() else len(passed.encode())
        self.line += passed.count("\n")
        self.at = end

    def peek(self) -> str:
        """Move to the next character that is not a space and return it; empty at the end of the file."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in " \t\r\n":
                end += 1
            self.advance(end)
            if end < len(self.text):
                return self.text[end]
            if not self.read_on():
                return ""


def _index_json_list(path: Path) -> FileRows:
    """Index the items of a list without keeping them: LLaVA's 665,000 conversations are a file of 1 GB."""
    starts, lines = array("Q"), array("I")
    cut_off = "not JSON: the file is cut off"
    with path.open("rb") as stream:
        scan = _Scanner(stream)
        try:
            scan.peek()
            scan.advance(scan.at + 1)  # the bracket
            while scan.peek() not in ("]", ""):
                starts.append(scan.position)
                lines.append(scan.line)
                scan.advance(_find_item_end(scan, path))
                if scan.peek() == ",":
                    scan.advance(scan.at + 1)
                elif scan.peek() != "]":
                    raise InputError(
                        f"{path.name}:{scan.line}: {'not JSON: missing comma' if scan.peek() else cut_off}"
                    )
            if not scan.peek():
                raise InputError(f"{path.name}:{scan.line}: {cut_off}")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path.name}:{scan.line}: not UTF-8 text after this line; {describe_conversion(b'')}"
            ) from error
        starts.append(scan.position)
    return FileRows(path, starts, lines, parse_json_object)


_DECODER = json.JSONDecoder(parse_int=str)  # an integer with too many digits is a fault of its row


def _find_item_end(scan: _Scanner, path: Path) -> int:
    """Find where the next JSON value ends in the scanner's text."""
    while True:
        try:
            return _DECODER.raw_decode(scan.text, scan.at)[1]
        except json.JSONDecodeError as error:
            # If the piece ends inside the value, read on until the end of the file; anything else is a fault.
            cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(scan.text) - 12
            if not (cut_off and scan.read_on()):
                line = scan.line + scan.text.count("\n", scan.at, error.pos)
                ending = "; the file is cut off" if cut_off else ""
                raise InputError(f"{path.name}:{line}: not JSON: {error.msg}{ending}") from error
        except RecursionError:
            raise InputError(f"{path.name}:{scan.line}: JSON nested too deeply") from None


def _index_csv_file(path: Path) -> FileRows:
    """Index rows with as many cells as the header; every cell is text.

    The delimiter is the most frequent of comma, semicolon and tab in the header.
    """
    starts, lines = array("Q"), array("I")
    position = number = 0

    with path.open("rb") as stream:

        def decode_lines() -> Iterator[str]:
            nonlocal position, number
            for line in stream:
                position += len(line)
                number += 1
                # A faulty row must not stop the index; it is reported when it is read.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")

        try:
            first = stream.readline().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path.name}:1: {describe_encoding_error(error)}") from error
        stream.seek(0)
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(decode_lines(), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            while True:
                begin, line = position, number + 1
                cells = next(reader, None)
                if cells is None:
                    break
                if cells:
                    starts.append(begin)
                    lines.append(line)
        except csv.Error as error:
            raise InputError(f"{path.name}:{number}: not CSV: {error} (an unclosed quotation mark?)") from error
    starts.append(position)
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if not header or repeated:
        fault = f"duplicate column '{repeated[0]}'" if repeated else "no header line"
        raise InputError(f"{path.name}:1: {fault}; the first line names the columns.")
    return FileRows(path, starts, lines, partial(_parse_cells, header, delimiter))


def _parse_cells(header: list[str], delimiter: str, text: str) -> dict[str, str]:
    cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    if len(cells) != len(header):
        raise InputError(f"{len(cells)} cells, but the header has {len(header)} columns: {', '.join(header)}")
    return dict(zip(header, cells, strict=True))


FILE_READERS: Mapping[str, Callable[[Path], FileRows]] = {
    ".jsonl": _index_json_lines,
    ".ndjson": _index_json_lines,
    ".json": _index_json_file,
    ".csv": _index_csv_file,
    ".tsv": _index_csv_file,
}
"""File suffix → the function that indexes the rows of such a file."""
