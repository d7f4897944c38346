"""Rows of a user's own data, sound and broken in every way, with the fault that each is reported with."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

Row = dict[str, Any]


def sound_row(folder: Path, number: int) -> Row:
    """A question about a picture of its own; every third row has no picture."""
    row: Row = {"id": f"r{number}", "question": f"Which is {number}?", "answer": f"the {number}th"}
    if number % 3:
        Image.new("RGB", (8, 6), (number, 0, 200)).save(folder / f"{number}.png")
        row["image"] = f"{number}.png"
    return row


def write_rows(folder: Path, rows: Sequence[Row], name: str = "rows.jsonl") -> Path:
    """The rows as JSON lines, a JSON list with a row a line, or CSV, by the name's ending."""
    import csv

    file = folder / name
    lines = [json.dumps(row) for row in rows]
    if name.endswith(".csv"):
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "question", "answer", "image"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("[" + ",\n".join(lines) + "]" if name.endswith(".json") else "\n".join(lines) + "\n")
    return file


def _file(folder: Path, number: int, encoded: bytes) -> Row:
    name = f"broken-{number}.png"
    (folder / name).write_bytes(encoded)
    return {"image": name}


@cache
def _png() -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").save(stream, format="PNG")
    return stream.getvalue()


@cache
def _hundred_megapixels() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(stream, format="PNG")
    return stream.getvalue()


@cache
def _bomb() -> bytes:
    """A few kilobytes that claim to be 2.5 gigapixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


Change = Callable[[Path, int], Row]

BREAKAGES: Mapping[str, tuple[Change, str]] = {
    "missing picture": (lambda folder, n: {"image": "nowhere.png"}, "no file 'nowhere.png'"),
    "truncated picture": (lambda folder, n: _file(folder, n, _png()[:-300]), "cut off or damaged"),
    "no picture": (lambda folder, n: _file(folder, n, b"hello"), "not a picture in a known format"),
    "empty picture": (lambda folder, n: _file(folder, n, b""), "empty, 0 bytes"),
    "100 MP picture": (lambda folder, n: _file(folder, n, _hundred_megapixels()), "too large to open safely"),
    "decompression bomb": (lambda folder, n: _file(folder, n, _bomb()), "too large to open safely"),
    "path out of the root": (lambda folder, n: {"image": "../x.png"}, "'../x.png' is outside"),
    "absolute path": (lambda folder, n: {"image": "/etc/hostname"}, "'/etc/hostname' is outside"),
    "address": (lambda folder, n: {"image": "https://example.org/a.png"}, "is a URL, not a file"),
    "number for a text": (lambda folder, n: {"answer": 7}, "answer: 7 is not text"),
    "list for a text": (lambda folder, n: {"question": ["a"]}, "is not text"),
    "nothing for a text": (lambda folder, n: {"answer": None}, "answer: null is not text"),
    "empty answer": (lambda folder, n: {"answer": "  "}, "answer: empty"),
    "empty question": (lambda folder, n: {"question": ""}, "question: empty"),
    "marks without pictures": (lambda folder, n: {"question": "<image><image>?"}, "2 <image> marks but"),
    "control character": (lambda folder, n: {"answer": "a\x00b"}, "control character U+0000"),
    "escape sequence": (lambda folder, n: {"question": "\x1b[31mred"}, "control character U+001B"),
    "half a character": (lambda folder, n: {"answer": "\ud83d"}, "control character U+D83D"),
    "id of another": (lambda folder, n: {"id": "r0"}, "id: 'r0' is already the id of"),
    "id that is none": (lambda folder, n: {"id": [1]}, "is neither text nor an integer"),
}
"""Name → how a sound row is changed, and words of the fault that it is reported with."""


@dataclass(frozen=True)
class Broken:
    """A file of rows, some of them broken.

    Attributes:
        file: the file.
        sound: ids of the sound rows.
        broken: ``file:line`` of the others → words of their fault.
    """

    file: Path
    sound: list[str]
    broken: dict[str, str]

    @classmethod
    def of(cls, folder: Path, breaks: Sequence[str | None], name: str = "rows.jsonl") -> "Broken":
        """Write a file of rows.

        Args:
            folder: where to write it.
            breaks: for each row a key of :data:`BREAKAGES`; with anything else the row is sound.
            name: of the file.
        """
        rows, sound, broken = [], [], {}
        for number, how in enumerate(breaks):
            row = sound_row(folder, number)
            if how in BREAKAGES:
                change, words = BREAKAGES[how]
                row |= change(folder, number)
                broken[f"{name}:{number + 1}"] = words
            else:
                sound.append(row["id"])
            rows.append(row)
        return cls(write_rows(folder, rows, name), sound, broken)
