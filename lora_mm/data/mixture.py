"""Which examples of which source a run takes, by seed. Knows sizes and weights; reads no example.

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
class SourceShare:
    """What a mixture takes of one source.

    Attributes:
        name, layout: of the source.
        rows: that it has for this split.
        faulty: of them left out as faulty.
        usable: of them looked at and fit to be used.
        chosen: left of these by selection and cap.
        drawn: taken in an epoch; more than ``chosen`` where rows come again.
    """

    name: str
    layout: str
    rows: int
    faulty: int
    usable: int
    chosen: int
    drawn: int


def format_shares(shares: Sequence[SourceShare]) -> list[str]:
    """The shares as a table in plain text, with their sum."""
    total = sum(share.drawn for share in shares)
    head = ("source", "layout", "rows", "faulty", "usable", "chosen", "drawn", "of all")
    cells = [(share.name, share.layout, *_thousands(share), f"{share.drawn / max(1, total):.1%}") for share in shares]
    sums = [f"{sum(getattr(share, name) for share in shares):,}" for name in head[2:-1]]
    table = [head, *cells, ("all", "", *sums, "")]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in table
    ]  # fmt: skip


def _thousands(share: SourceShare) -> list[str]:
    return [f"{n:,}" for n in (share.rows, share.faulty, share.usable, share.chosen, share.drawn)]


def cap_rows(rows: np.ndarray, cap: int | None, seed: int) -> np.ndarray:
    """``cap`` of the rows by chance, in their order; all where there are no more."""
    if cap is None or len(rows) <= cap:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:cap])]


def allocate_counts(sizes: Sequence[int], weights: Sequence[float], sampling: Sampling) -> list[int]:
    """How many to draw of each source: shares go with ``weight · size^a``, a = 1, ½ or 0 by ``sampling``.

    All together they are as many as there are examples, so that an epoch keeps its length.
    """
    total = sum(sizes)
    drive = np.array(weights) * np.array(sizes, dtype=float) ** _EXPONENTS[sampling] * (np.array(sizes) > 0)
    if not drive.sum():
        return [0 for _ in sizes]
    exact = drive / drive.sum() * total
    whole = np.floor(exact).astype(int)
    nearest_above = np.argsort(whole - exact, kind="stable")  # largest remainder first
    whole[nearest_above[: total - whole.sum()]] += 1
    return [int(count) for count in whole]


def draw_rows(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` of the rows: each as often as another, give or take one, and that by chance."""
    if not len(rows):
        return rows
    times, rest = divmod(count, len(rows))
    extra = np.sort(np.random.default_rng(seed).permutation(len(rows))[:rest])
    return np.concatenate([*[rows] * times, rows[extra]])


def hold_out_rows(marks: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to train on, and of those held out for evaluation: at least one.

    Rows of one mark are the same example, and never part; those of mark 0 cannot be read, and are left to training.
    """
    unique, back = np.unique(marks, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    sizes = np.bincount(back)[order] * (unique[order] != 0)
    enough = int(np.searchsorted(np.cumsum(sizes), max(1, round(len(marks) * share)))) + 1
    held = np.zeros(len(unique), dtype=bool)
    held[order[:enough]] = True
    held[unique == 0] = False
    return np.flatnonzero(~held[back]), np.flatnonzero(held[back])
