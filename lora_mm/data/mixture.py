"""Which rows of which source a run takes, by seed. Knows sizes and weights; reads no example.

Sampling follows InstructBLIP (Dai et al. 2023, section 2.3: probabilities go with the square root of a set's size, with
weights set by hand), the cap Yi-VL (01.AI 2024: 50,000 of a source).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Sampling = Literal["proportional", "sqrt", "weights"]

_EXPONENTS = {"proportional": 1.0, "sqrt": 0.5, "weights": 0.0}


@dataclass(frozen=True)
class SourceCounts:
    """How many rows of one source a split takes.

    Attributes:
        name: of the source.
        layout: of its rows.
        rows: that it has for this split.
        faulty: rows that cannot be used.
        usable: rows that were read and can be used.
        chosen: usable rows that selection and cap leave.
        drawn: taken in an epoch; more than ``chosen`` where rows are repeated.
    """

    name: str
    layout: str
    rows: int
    faulty: int
    usable: int
    chosen: int
    drawn: int


def format_counts(counts: Sequence[SourceCounts]) -> list[str]:
    """Format the counts as a table in plain text, with each source's share of the epoch and a line of totals."""
    names = ("rows", "faulty", "usable", "chosen", "drawn")
    drawn = sum(one.drawn for one in counts)
    table: list[tuple[str, ...]] = [("source", "layout", *names, "share")]
    for one in counts:
        numbers = [f"{getattr(one, name):,}" for name in names]
        table.append((one.name, one.layout, *numbers, f"{one.drawn / max(1, drawn):.1%}"))
    table.append(("total", "", *(f"{sum(getattr(one, name) for one in counts):,}" for name in names), ""))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(_align(row, widths)).rstrip() for row in table]


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Pad the cells of a row, the first two on the right and the others, numbers, on the left."""
    cells = list(zip(row, widths, strict=True))
    return [cell.ljust(width) for cell, width in cells[:2]] + [cell.rjust(width) for cell, width in cells[2:]]


def cap_rows(rows: np.ndarray, cap: int | None, seed: int) -> np.ndarray:
    """Sample rows at random, keeping their order.

    Args:
        rows: numbers of rows.
        cap: maximum number of rows; None for all.
        seed: of the sampling.
    """
    if cap is None or len(rows) <= cap:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:cap])]


def allocate_counts(sizes: Sequence[int], weights: Sequence[float], sampling: Sampling) -> list[int]:
    """Decide how many rows to draw of each source: shares are proportional to ``weight · size^a``.

    Args:
        sizes: rows of each source.
        weights: of each source.
        sampling: a is 1 (``proportional``), ½ (``sqrt``) or 0 (``weights``).

    Returns:
        A count for each source. Together they are as many as all rows, so that an epoch keeps its length.
    """
    total = sum(sizes)
    drive = np.array(weights) * np.array(sizes, dtype=float) ** _EXPONENTS[sampling] * (np.array(sizes) > 0)
    if not drive.sum():
        return [0 for _ in sizes]
    exact = drive / drive.sum() * total
    whole = np.floor(exact).astype(int)
    by_remainder = np.argsort(whole - exact, kind="stable")  # largest remainder first
    whole[by_remainder[: total - whole.sum()]] += 1
    return [int(count) for count in whole]


def draw_rows(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw rows, each as often as any other, give or take one.

    Args:
        rows: numbers of rows.
        count: how many to draw; more than there are repeats them.
        seed: decides which rows are drawn once more.
    """
    if not len(rows):
        return rows
    times, rest = divmod(count, len(rows))
    extra = np.sort(np.random.default_rng(seed).permutation(len(rows))[:rest])
    return np.concatenate([*[rows] * times, rows[extra]])


def hold_out_rows(hashes: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into those to train on and those held out for evaluation.

    Args:
        hashes: of each row's example; 0 for a row that cannot be read, which stays with the training rows. Rows with
            equal hashes are the same example and stay together.
        share: of all rows to hold out; at least one is held out.
        seed: of the sampling.

    Returns:
        Numbers of the training rows and of the held out rows.
    """
    unique, back = np.unique(hashes, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    sizes = np.bincount(back)[order] * (unique[order] != 0)
    enough = int(np.searchsorted(np.cumsum(sizes), max(1, round(len(hashes) * share)))) + 1
    held_out = np.zeros(len(unique), dtype=bool)
    held_out[order[:enough]] = True
    held_out[unique == 0] = False
    return np.flatnonzero(~held_out[back]), np.flatnonzero(held_out[back])
