"""Samples the rows of a mixture of sources. Knows sizes and weights; reads no example.

Sampling follows InstructBLIP (Dai et al. 2023, section 2.3: probabilities in proportion to the square root of a data
set's size, with weights set by hand), the cap follows Yi-VL (01.AI 2024: 50,000 rows of a source).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Sampling = Literal["proportional", "sqrt", "weights"]

_EXPONENTS = {"proportional": 1.0, "sqrt": 0.5, "weights": 0.0}


@dataclass(frozen=True)
class SourceCounts:
    """Numbers of rows of one source in a split.

    Attributes:
        name: name of the source.
        layout: layout of its rows.
        rows: rows of the split.
        faulty: rows that cannot be used.
        usable: rows that were read and can be used.
        chosen: usable rows that selection and cap leave.
        drawn: rows of an epoch; more than ``chosen`` if rows are repeated.
    """

    name: str
    layout: str
    rows: int
    faulty: int
    usable: int
    chosen: int
    drawn: int


def format_counts(counts: Sequence[SourceCounts]) -> list[str]:
    """Format counts as a table in plain text, with each source's share of the epoch and a line of totals."""
    names = ("rows", "faulty", "usable", "chosen", "drawn")
    drawn = sum(count.drawn for count in counts)
    table: list[tuple[str, ...]] = [("source", "layout", *names, "share")]
    for count in counts:
        numbers = [f"{getattr(count, name):,}" for name in names]
        table.append((count.name, count.layout, *numbers, f"{count.drawn / max(1, drawn):.1%}"))
    table.append(("total", "", *(f"{sum(getattr(count, name) for count in counts):,}" for name in names), ""))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(_align(row, widths)).rstrip() for row in table]


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Align the first two cells of a row to the left, and the numbers to the right."""
    cells = list(zip(row, widths, strict=True))
    return [cell.ljust(width) for cell, width in cells[:2]] + [cell.rjust(width) for cell, width in cells[2:]]


def cap_rows(rows: np.ndarray, cap: int | None, seed: int) -> np.ndarray:
    """Sample rows at random, keeping their order.

    Args:
        rows: numbers of rows.
        cap: maximum number of rows; None for all.
        seed: random seed.
    """
    if cap is None or len(rows) <= cap:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:cap])]


def allocate_counts(sizes: Sequence[int], weights: Sequence[float], sampling: Sampling) -> list[int]:
    """Decide how many rows of each source to draw, in proportion to ``weight · size^a``.

    Args:
        sizes: number of rows of each source.
        weights: weight of each source.
        sampling: a is 1 (``proportional``), ½ (``sqrt``) or 0 (``weights``).

    Returns:
        A count for each source. Their sum is the number of all rows, so that an epoch keeps its length.
    """
    total = sum(sizes)
    shares = np.array(weights) * np.array(sizes, dtype=float) ** _EXPONENTS[sampling] * (np.array(sizes) > 0)
    if not shares.sum():
        return [0 for _ in sizes]
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    by_remainder = np.argsort(counts - exact, kind="stable")  # largest remainder first
    counts[by_remainder[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def draw_rows(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw rows; each is drawn equally often, or once more.

    Args:
        rows: numbers of rows.
        count: number of rows to draw; rows are repeated if it exceeds their number.
        seed: random seed that decides which rows are drawn once more.
    """
    if not len(rows):
        return rows
    times, rest = divmod(count, len(rows))
    extra = np.sort(np.random.default_rng(seed).permutation(len(rows))[:rest])
    return np.concatenate([*[rows] * times, rows[extra]])


def hold_out_rows(hashes: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into those to train on and those held out for evaluation.

    Args:
        hashes: hash of each row's example; 0 for a row that cannot be read, which stays with the training rows. Rows
            with equal hashes are the same example and stay together.
        share: share of all rows to hold out; at least one row is held out.
        seed: random seed.

    Returns:
        Numbers of the training rows, and of the held-out rows.
    """
    unique, back = np.unique(hashes, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    sizes = np.bincount(back)[order] * (unique[order] != 0)
    enough = int(np.searchsorted(np.cumsum(sizes), max(1, round(len(hashes) * share)))) + 1
    held_out = np.zeros(len(unique), dtype=bool)
    held_out[order[:enough]] = True
    held_out[unique == 0] = False
    return np.flatnonzero(~held_out[back]), np.flatnonzero(held_out[back])
