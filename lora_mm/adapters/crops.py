"""Which crop of its picture each row of a tower holds, by the prompt's placeholders or the pixels. Knows no adapter."""

from itertools import chain

import torch
from torch import Tensor, nn

OVERVIEW = -1
"""Crop index of a tower row that shows the whole picture."""


def compute_crop_index(
    crops: str,
    ids: Tensor,
    token_ids: list[int],
    rows: int,
    *,
    views: int = 1,
    framed: bool = False,
    sizes: list[int] | None = None,
) -> Tensor:
    """Which crop each row of a tower holds, ``[rows]``.

    Args:
        crops: how the family lays crops out (``Anatomy.crops``).
        ids: ``[batch, tokens]``, the prompt.
        token_ids: of visual placeholders.
        rows: of the tower.
        views: rows of a sliced picture, where the family does not slice by itself.
        framed: whether its views do not stand in one run (``Anatomy.framed``).
        sizes: rows of each picture, where the pixels tell.
    """
    first = crops == "overview_first"
    if not torch.isin(ids, torch.tensor(token_ids, device=ids.device)).any() or (first and sizes is None):
        sizes = [1] * rows  # pictures that no token stands for (BLIP's dummy), or that were not tiled
    elif not first:
        runs = _runs(ids, token_ids)
        counts = _rows_of_runs(runs, rows)
        if crops == "overview_last":
            sizes = _tiled(ids, runs, counts)
        elif crops == "quarters":
            sizes = _sliced(_chained(runs, counts), views=5)
        else:
            sizes = _sliced(_by_sample(runs, counts) if framed else counts, views)
    places = [list(range(size - 1)) for size in sizes or []]
    found = [[OVERVIEW, *place] if first else [*place, OVERVIEW] for place in places]
    return torch.tensor(list(chain.from_iterable(found)), device=ids.device)


Run = tuple[int, int, int]
"""A run of placeholders: row of the batch, start and length."""


def _runs(ids: Tensor, token_ids: list[int]) -> list[Run]:
    """The runs of placeholders, in order."""
    visual = torch.isin(ids, torch.tensor(token_ids, device=ids.device)).long()
    edges = torch.diff(nn.functional.pad(visual, (1, 1)))
    starts, ends = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
    return [(row, start, end - start) for (row, start), (_, end) in zip(starts, ends, strict=True)]


def _rows_of_runs(runs: list[Run], rows: int) -> list[int]:
    """Tower rows behind each run, all rows having equally many placeholders; empty where that cannot be."""
    total = sum(length for *_, length in runs)
    each = total // rows
    return [length // each for *_, length in runs] if each and total == each * rows else []


def _sliced(counts: list[int], views: int) -> list[int]:
    """Tower rows of each picture: ``views``, or one where a run has rows that do not come out even: not sliced."""
    sizes: list[int] = []
    for count in counts:
        sizes += [views] * (count // views) if count % views == 0 else [1] * count
    return sizes


def _by_sample(runs: list[Run], counts: list[int]) -> list[int]:
    """``counts`` with those of one sample put together."""
    totals: dict[int, int] = {}
    for (row, *_), count in zip(runs, counts, strict=False):
        totals[row] = totals.get(row, 0) + count
    return list(totals.values())


def _chained(runs: list[Run], counts: list[int]) -> list[int]:
    """``counts`` with those of runs put together that only one token parts."""
    chained: list[int] = []
    end = (-1, -1)
    for (row, start, length), count in zip(runs, counts, strict=False):
        if (row, start - 1) == end:
            chained[-1] += count
        else:
            chained.append(count)
        end = (row, start + length)
    return chained


def _tiled(ids: Tensor, runs: list[Run], counts: list[int]) -> list[int]:
    """Tower rows of each picture where the overview comes last.

    InternVL's crops of one picture are one run. Idefics3's are a run each, and the token before an overview is always
    the same one: the token before a sample's last run.
    """
    if any(count != 1 for count in counts):
        return counts
    before = [int(ids[row, start - 1]) for row, start, _ in runs]
    last = {row: token for (row, *_), token in zip(runs, before, strict=True)}
    sizes, size = [], 0
    for (row, *_), token in zip(runs, before, strict=True):
        size += 1
        if token == last[row]:
            sizes.append(size)
            size = 0
    return sizes


def count_tiles(pixels: Tensor) -> list[int]:
    """Tower rows of each picture; ``pixels`` [pictures, tiles, channels, height, width].

    Pictures with fewer tiles than the most are padded with zeros, and the model leaves those tiles out.
    """
    return [max(1, int(count)) for count in pixels.flatten(2).any(dim=-1).sum(dim=-1)]
