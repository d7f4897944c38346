"""Rows of JSON, JSON lines and CSV, read where they lie by an index of where each begins. Knows no layouts.

``datasets`` would want one schema for a whole file (it makes the id ``"2"`` a number beside others), turn a CSV's
``None`` and ``NA`` into nothing, and not say which row is broken. The index takes one pass and 12 bytes a row.
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

_CHUNK = 1 << 20
"""Bytes of a JSON list that are looked at together."""


@dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of one text file: where each begins, and how one is read."""

    path: Path
    starts: array
    """Byte at which each row begins, and the file's end: one more than there are rows."""
    lines: array
    """Line on which each row begins, from 1."""
    parse: Callable[[str], Mapping[str, Any]]

    @property
    def name(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        with self.path.open("rb") as stream:  # for each row: workers share no place in a file
            stream.seek(self.starts[row])
            encoded = stream.read(self.starts[row + 1] - self.starts[row])
        try:
            return self.parse(encoded.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 text (byte {error.start} of the row)") from error

    def where(self, row: int) -> str:
        return f"{self.name}:{self.lines[row]}"


def parse_json_object(text: str) -> dict[str, Any]:
    """One JSON object; a key that is there twice is a fault, since a plain parser keeps the last in silence."""
    text = text.strip()
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}, at character {error.pos + 1}") from error
    except RecursionError as error:
        raise InputError("not JSON that can be read: nested too deeply") from error
    if not isinstance(value, dict):
        raise InputError(f"not an object with named fields, but {type(value).__name__}")
    if text[end:].strip() not in ("", ","):  # of a list's item the comma is part
        raise InputError(f"not JSON: something follows the object, {text[end:].strip()[:20]!r}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise InputError(f"the key '{twice[0]}' is there twice")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _json_lines(path: Path) -> FileRows:
    starts, lines = array("Q"), array("I")
    place = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                starts.append(place + len(line) - len(content))
                lines.append(number)
            place += len(line)
    starts.append(place)
    return FileRows(path, starts, lines, parse_json_object)


def _json_file(path: Path) -> FileRows:
    """A list of objects; or lines of objects, which many call ``.json`` too."""
    with path.open("rb") as stream:
        begin = stream.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"["):
        return _json_list(path)
    if begin.startswith(b"{"):
        with contextlib.suppress(InputError, UnicodeDecodeError):
            parse_json_object(begin.splitlines()[0].decode("utf-8"))
            return _json_lines(path)
        raise InputError(f"{path}: one JSON object, not a list of rows; write [{{…}}, {{…}}], or an object a line.")
    raise InputError(f"{path}: neither a JSON list of rows nor an object a line.")


class _Scanner:
    """A text file passed over in pieces. ``place`` and ``line`` are the byte and the line of ``text[at]``."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.line = stream, "", 0, 1
        self.place = len(codecs.BOM_UTF8) if stream.read(3) == codecs.BOM_UTF8 else 0
        stream.seek(self.place)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def more(self) -> bool:
        """Forget what was passed over and read on, as much again as is left; False at the file's end."""
        chunk = self.stream.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + self._decode(chunk, final=not chunk), 0
        return bool(chunk)

    def to(self, end: int) -> None:
        """Pass over ``text`` up to ``end``."""
        passed = self.text[self.at : end]
        self.place += len(passed) if passed.isascii() else len(passed.encode())
        self.line += passed.count("\n")
        self.at = end

    def next(self) -> str:
        """The next character that is no space, not passed over; empty at the file's end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in " \t\r\n":
                end += 1
            self.to(end)
            if end < len(self.text):
                return self.text[end]
            if not self.more():
                return ""


def _json_list(path: Path) -> FileRows:
    """Places of the list's items, found without keeping them: LLaVA's 665,000 conversations are a file of 1 GB."""
    starts, lines = array("Q"), array("I")
    cut = "not JSON: the file ends in the middle, it was cut off"
    with path.open("rb") as stream:
        scan = _Scanner(stream)
        try:
            scan.next()
            scan.to(scan.at + 1)  # the bracket
            while scan.next() not in ("]", ""):
                starts.append(scan.place)
                lines.append(scan.line)
                scan.to(_item_end(scan, path))
                if scan.next() == ",":
                    scan.to(scan.at + 1)
                elif scan.next() != "]":
                    raise InputError(f"{path.name}:{scan.line}: {'not JSON: no comma here' if scan.next() else cut}")
            if not scan.next():
                raise InputError(f"{path.name}:{scan.line}: {cut}")
        except UnicodeDecodeError as error:
            raise InputError(f"{path.name}:{scan.line}: not UTF-8 text in the lines behind this") from error
        starts.append(scan.place)
    return FileRows(path, starts, lines, parse_json_object)


def _item_end(scan: _Scanner, path: Path) -> int:
    """Where the JSON value at the scanner ends in its text."""
    while True:
        try:
            return json.JSONDecoder().raw_decode(scan.text, scan.at)[1]
        except json.JSONDecodeError as error:
            # Cut by the piece's end rather than wrong: what is read then goes on, if the file does.
            cut = error.msg.startswith("Unterminated string") or error.pos >= len(scan.text) - 12
            if not (cut and scan.more()):
                line = scan.line + scan.text.count("\n", scan.at, error.pos)
                ended = "; the file ends in the middle, it was cut off" if cut else ""
                raise InputError(f"{path.name}:{line}: not JSON: {error.msg}{ended}") from error


def _csv_file(path: Path) -> FileRows:
    """A header and rows of as many cells; every cell is text. The header's most frequent of , ; and tab divides."""
    starts, lines = array("Q"), array("I")
    place = number = 0

    with path.open("rb") as stream:

        def decoded() -> Iterator[str]:
            nonlocal place, number
            for line in stream:
                place += len(line)
                number += 1
                # A faulty row must not end the pass: it is named when it is read.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")

        first = stream.readline().decode("utf-8-sig", errors="replace")
        stream.seek(0)
        divider = max(",;\t", key=first.count)
        reader = csv.reader(decoded(), delimiter=divider, strict=True)
        try:
            header = next(reader, [])
            while True:
                begin, line = place, number + 1
                cells = next(reader, None)
                if cells is None:
                    break
                if cells:
                    starts.append(begin)
                    lines.append(line)
        except csv.Error as error:
            raise InputError(
                f"{path.name}:{number}: not CSV: {error} (a quotation mark that is not closed?)"
            ) from error
    starts.append(place)
    twice = [name for name, count in Counter(header).items() if count > 1]
    if not header or twice:
        what = f"two columns are called '{twice[0]}'" if twice else "no header line"
        raise InputError(f"{path.name}:1: {what}; the first line names the columns.")
    return FileRows(path, starts, lines, partial(_parse_cells, header, divider))


def _parse_cells(header: list[str], divider: str, text: str) -> dict[str, str]:
    cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True))
    if len(cells) != len(header):
        raise InputError(f"{len(cells)} cells, but the header has {len(header)} columns: {', '.join(header)}")
    return dict(zip(header, cells, strict=True))


FILE_READERS: Mapping[str, Callable[[Path], FileRows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _csv_file,
    ".tsv": _csv_file,
}
"""How a file of each ending becomes rows."""
