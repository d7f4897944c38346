"""Checks every row of a source: whether it can be used, its faults, and duplicates. Knows no recipe.

Memory grows by some bytes per row (its number, a hash of its content), whatever the size of the row.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from lora_mm.data.example import Example, open_image
from lora_mm.data.source import Source
from lora_mm.errors import InputError

_ROWS_AHEAD = 64
"""Number of rows whose pictures are opened in parallel."""
_KEPT_FAULTS = 1000
"""Maximum number of faults to keep as text; further faulty rows are only counted."""


@dataclass
class Faults:
    """Rows that cannot be used.

    Attributes:
        rows: number of faulty rows.
        lines: their faults; the first :data:`_KEPT_FAULTS` lines.
    """

    rows: int = 0
    lines: list[str] = field(default_factory=list)

    def add_row(self, lines: Sequence[str]) -> None:
        """Add one row with its faults."""
        self._add(1, lines)

    def add_all(self, others: "Faults") -> None:
        """Add the rows of ``others``."""
        self._add(others.rows, others.lines)

    def _add(self, rows: int, lines: Sequence[str]) -> None:
        self.rows += rows
        self.lines += lines[: max(0, _KEPT_FAULTS - len(self.lines))]


@dataclass(frozen=True)
class Survey:
    """The result of :func:`survey_source`.

    Attributes:
        usable: numbers of the rows that can be used, in order.
        hashes: :func:`hash_example` of each of them.
        faults: faults of the other rows.
    """

    usable: np.ndarray
    hashes: np.ndarray
    faults: Faults


def survey_source(source: Source, rows: "Sequence[int] | np.ndarray", *, limit: int | None = None) -> Survey:
    """Read rows and open all their pictures. A row with the id of an earlier row is faulty.

    Args:
        source: the source of the rows.
        rows: numbers of the rows to check.
        limit: stop after this many usable rows; None checks all.
    """
    usable, hashes, ids = array("Q"), array("Q"), array("Q")
    faults = Faults()
    for row, example, row_faults in _read_with_pictures(source, rows):
        if len(usable) == limit:
            break
        if example is None:
            faults.add_row(row_faults)
            continue
        usable.append(row)
        hashes.append(hash_example(example))
        ids.append(hash_content(example.id.encode()))
    numbers, contents = (np.frombuffer(column, dtype=np.uint64) for column in (usable, hashes))
    repeated = find_repeated(np.frombuffer(ids, dtype=np.uint64))
    source = replace(source, repeated_ids={int(numbers[n]): int(numbers[first]) for n, first in repeated.items()})
    for row in source.repeated_ids:
        faults.add_row(_read(source, row)[1])
    return Survey(np.delete(numbers, list(repeated)), np.delete(contents, list(repeated)), faults)


def hash_source(source: Source) -> tuple[Source, np.ndarray]:
    """Hash every row without opening pictures.

    Returns:
        The source with its repeated ids, and :func:`hash_example` of each row; 0 for a row that cannot be read.
    """
    hashes, ids = array("Q"), array("Q")
    for row in range(len(source)):
        example, _ = _read(source, row)
        hashes.append(hash_example(example) if example else 0)
        ids.append(hash_content((example.id if example else source.rows.where(row)).encode()))
    repeated = find_repeated(np.frombuffer(ids, dtype=np.uint64))
    return replace(source, repeated_ids=repeated), np.frombuffer(hashes, dtype=np.uint64)


def hash_example(example: Example) -> int:
    """Hash the texts and pictures of an example in 64 bits; for a picture file, its path is hashed."""
    digest = hashlib.blake2b(digest_size=8)
    for turn in example.turns:
        digest.update(f"{turn.role}\0{turn.text}\0".encode())
    for picture in example.pictures:
        digest.update(picture if isinstance(picture, bytes) else str(picture).encode())
    return int.from_bytes(digest.digest(), "little")


def hash_content(content: bytes) -> int:
    """Hash bytes in 64 bits; a collision among a million different contents has odds of 1 to 37 million."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def find_repeated(hashes: np.ndarray) -> dict[int, int]:
    """Find repeated hashes: index → index of the first equal hash."""
    unique, first, back = np.unique(hashes, return_index=True, return_inverse=True)
    if len(unique) == len(hashes):
        return {}
    before = first[back]
    return {int(number): int(before[number]) for number in np.flatnonzero(before != np.arange(len(hashes)))}


def _read_with_pictures(
    source: Source, rows: "Sequence[int] | np.ndarray"
) -> Iterator[tuple[int, Example | None, list[str]]]:
    """Yield each row with its example or its faults. Pictures are opened some rows ahead."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _ROWS_AHEAD):
            window = [(int(row), *_read(source, int(row))) for row in rows[start : start + _ROWS_AHEAD]]
            openings = [
                pool.submit(_open_pictures, source, row, example) if example and example.pictures else None
                for row, example, _ in window
            ]
            for (row, example, faults), opening in zip(window, openings, strict=True):
                faults = faults + (opening.result() if opening else [])
                yield row, None if faults else example, faults


def _read(source: Source, row: int) -> tuple[Example | None, list[str]]:
    try:
        return source[row], []
    except InputError as error:
        return None, list(error.faults)


def _open_pictures(source: Source, row: int, example: Example) -> list[str]:
    """Open an example's pictures; return their faults."""
    faults = []
    for number, picture in enumerate(example.pictures):
        try:
            open_image(picture)
        except InputError as error:
            which = f"picture {number}" if len(example.pictures) > 1 else "picture"
            faults += [f"{source.rows.where(row)}: {which}: {fault}" for fault in error.faults]
    return faults
