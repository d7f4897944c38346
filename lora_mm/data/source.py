"""A place of rows as a sequence of examples, read when they are asked for. Knows layouts; knows no recipe and no model.

Memory grows by some bytes a row (where it begins, a mark of its content), never by what a row holds.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from lora_mm.data.example import Example, open_image
from lora_mm.data.layouts import Response, RowReader, detect_layout
from lora_mm.data.rows import Rows, find_rows
from lora_mm.errors import InputError

_PEEK = 200
"""Rows whose columns decide the layout of a text file."""
_WINDOW = 64
"""Rows whose pictures are opened side by side."""
_TOLD = 1000
"""Faults that are kept in words; beyond, they are counted."""


@dataclass(frozen=True)
class Source:
    """Rows of one place, as examples.

    Attributes:
        split: the split that they are; None where the place does not divide its rows.
        prefix: of every example's id, to tell sources apart.
        again: rows whose id is that of a row before, and that row.
    """

    rows: Rows
    reader: RowReader
    split: str | None
    prefix: str = ""
    again: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        """The example; InputError names the row."""
        where = self.rows.where(row)
        try:
            example = self.reader(self.rows[row], where)
            if row in self.again:
                raise InputError(f"id: '{example.id}' is that of {self.rows.where(self.again[row])} too")
        except InputError as error:
            raise InputError(*(f"{where}: {fault}" for fault in error.faults)) from error
        return replace(example, id=self.prefix + example.id) if self.prefix else example

    def columns(self) -> list[str]:
        """Names of the first rows' columns."""
        return _columns(self.rows)


def open_source(
    path: str,
    split: str,
    *,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    image_root: Path | None = None,
    question: str | None = None,
    response: Response = "none",
    stream: int | None = None,
    prefix: str = "",
) -> Source:
    """The rows of ``split`` at ``path``, in the layout that fits their columns.

    Args:
        layout, columns: see :func:`~lora_mm.data.layouts.detect_layout`.
        image_root: where pictures' paths go out from; by default the folder of the file.
        question, response: see :class:`~lora_mm.data.layouts.RowReader`.
        stream: of a data set on the Hub, bring the first so many rows only.

    Raises:
        InputError: for a place without rows, or rows in no layout, or in several.
    """
    found = find_rows(path, split, limit=stream)
    named = dict(columns or {})
    try:
        known = detect_layout(_columns(found.rows), named, layout)
    except InputError as error:
        raise InputError(*(f"{path}: {fault}" for fault in error.faults)) from error
    if known == "caption" and not question:
        raise InputError(f"{path}: rows of pictures and texts; say what is asked of each by data.question.")
    reader = RowReader(known, named, image_root or found.root, question, response)
    return Source(found.rows, reader, found.split, prefix)


def _columns(rows: Rows) -> list[str]:
    table = getattr(rows, "table", None)
    if table is not None:
        return list(table.column_names)
    names: dict[str, None] = {}
    for row in range(min(_PEEK, len(rows))):
        try:
            names |= dict.fromkeys(rows[row])
        except InputError:
            continue  # named when all rows are read
    return list(names)


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """Examples by number, each read when it is asked for.

    Attributes:
        sources: where they lie.
        places: ``[examples, 2]``: source and row of each.
    """

    sources: Sequence[Source]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def where(self, number: int) -> str:
        """File and line of an example."""
        source, row = self.places[number]
        return self.sources[source].rows.where(int(row))

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> "Examples": ...
    def __getitem__(self, number: int | slice) -> "Example | Examples":
        if isinstance(number, slice):
            return Examples(self.sources, self.places[number])
        source, row = self.places[number]
        return self.sources[source][int(row)]


# --- looking at all of them ----------------------------------------------------------------------------------------


@dataclass
class Faults:
    """Rows that cannot be used: counted, and the first :data:`_TOLD` lines of what is wrong with them."""

    rows: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, lines: Sequence[str]) -> None:
        """One row more, with what is wrong with it."""
        self.rows += 1
        self.lines += lines[: max(0, _TOLD - len(self.lines))]

    def add_all(self, others: "Faults") -> None:
        """The rows of others too."""
        self.rows += others.rows
        self.lines += others.lines[: max(0, _TOLD - len(self.lines))]


@dataclass(frozen=True)
class Survey:
    """What a look at every row found.

    Attributes:
        kept: the rows that can be used, in order.
        marks: of each kept row, 64 bits of what its example says and shows: equal examples have equal marks.
        faults: the other rows.
    """

    kept: np.ndarray
    marks: np.ndarray
    faults: Faults


def survey_source(source: Source, rows: "Sequence[int] | np.ndarray", *, limit: int | None = None) -> Survey:
    """Look at every row and open every picture; of rows with the same id, all but the first are faulty.

    Args:
        limit: look at no more rows once so many can be used.
    """
    kept, marks, ids = array("Q"), array("Q"), array("Q")
    faults = Faults()
    for row, example, wrong in _examined(source, rows):
        if len(kept) == limit:
            break
        if example is None:
            faults.add(wrong)
            continue
        kept.append(row)
        marks.append(hash_example(example))
        ids.append(hash_content(example.id.encode()))
    numbers, content = (np.frombuffer(column, dtype=np.uint64) for column in (kept, marks))
    again = find_repeated(np.frombuffer(ids, dtype=np.uint64))
    named = replace(source, again={int(numbers[number]): int(numbers[first]) for number, first in again.items()})
    for row in named.again:
        faults.add(_read(named, row)[1])
    return Survey(np.delete(numbers, list(again)), np.delete(content, list(again)), faults)


def hash_source(source: Source) -> tuple[Source, np.ndarray]:
    """The source, knowing which ids come again, and each row's :func:`hash_example`, 0 for one that cannot be read.

    Pictures are not opened.
    """
    marks, ids = array("Q"), array("Q")
    for row in range(len(source)):
        example, _ = _read(source, row)
        marks.append(hash_example(example) if example else 0)
        ids.append(hash_content((example.id if example else source.rows.where(row)).encode()))
    again = find_repeated(np.frombuffer(ids, dtype=np.uint64))
    return replace(source, again=again), np.frombuffer(marks, dtype=np.uint64)


def hash_example(example: Example) -> int:
    """64 bits of what an example says and shows."""
    digest = hashlib.blake2b(digest_size=8)
    for turn in example.turns:
        digest.update(f"{turn.role}\0{turn.text}\0".encode())
    for picture in example.pictures:
        digest.update(picture if isinstance(picture, bytes) else str(picture).encode())
    return int.from_bytes(digest.digest(), "little")


def hash_content(content: bytes) -> int:
    """64 bits that equal contents share, and others do not (of a million, with one chance in 37 million)."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def find_repeated(marks: np.ndarray) -> dict[int, int]:
    """Number of each mark that was there before → number of the first like it."""
    unique, first, back = np.unique(marks, return_index=True, return_inverse=True)
    if len(unique) == len(marks):
        return {}
    before = first[back]
    return {int(number): int(before[number]) for number in np.flatnonzero(before != np.arange(len(marks)))}


def _examined(source: Source, rows: "Sequence[int] | np.ndarray") -> Iterator[tuple[int, Example | None, list[str]]]:
    """Each row with its example, or with what is wrong with it; pictures are opened some rows ahead."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _WINDOW):
            found = [(int(row), *_read(source, int(row))) for row in rows[start : start + _WINDOW]]
            opened = [pool.submit(_opened, source, row, example) if example and example.pictures else None
                      for row, example, _ in found]  # fmt: skip
            for (row, example, faults), opening in zip(found, opened, strict=True):
                faults = faults + (opening.result() if opening else [])
                yield row, None if faults else example, faults


def _read(source: Source, row: int) -> tuple[Example | None, list[str]]:
    try:
        return source[row], []
    except InputError as error:
        return None, list(error.faults)


def _opened(source: Source, row: int, example: Example) -> list[str]:
    faults = []
    for number, picture in enumerate(example.pictures):
        try:
            open_image(picture)
        except InputError as error:
            which = f"picture {number}" if len(example.pictures) > 1 else "picture"
            faults += [f"{source.rows.where(row)}: {which}: {fault}" for fault in error.faults]
    return faults
