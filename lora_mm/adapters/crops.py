"""Computes which crop each row of a vision tower holds, from the prompt or the pixels. Knows no adapter."""

from itertools import chain

import torch
from torch import Tensor, nn

OVERVIEW = -1
"""Crop index of a tower row that shows the whole picture."""

OUTSIDE = 2**30
"""Crop index of a tower row whose crop is right of the grid of the experts."""


def compute_crop_index(
    crops: str,
    ids: Tensor,
    token_ids: list[int],
    rows: int,
    *,
    views: int = 1,
    framed: bool = False,
    sizes: list[int] | None = None,
    widths: list[int] | None = None,
    columns: int = 0,
) -> Tensor:
    """Compute which crop each row of a tower holds.

    A crop is a place in a grid of ``columns``, whatever the grid of its own picture: the crop below the first one is
    the same in a picture of 2 × 1 crops as in one of 2 × 2. Where the prompt does not show the grid (InternVL), it is
    the crop's number in the picture.

    Args:
        crops: how the family lays crops out (``Family.crops``).
        ids: ``[batch, tokens]``, the prompt.
        token_ids: ids of the visual placeholders.
        rows: number of rows of the tower.
        views: number of rows of a sliced picture, for families that do not slice pictures themselves.
        framed: whether each view of a picture is a separate run of placeholders (``Family.framed``).
        sizes: number of rows of each picture, if the pixels show it.
        widths: number of columns of each picture's own grid, if its size shows it.
        columns: of the grid of places; 0 for the crops' numbers.

    Returns:
        ``[rows]``, each row's crop, from 0; :data:`OVERVIEW` for the whole picture.
    """
    is_overview_first = crops == "overview_first"
    if not torch.isin(ids, torch.tensor(token_ids, device=ids.device)).any() or (is_overview_first and sizes is None):
        sizes, widths = [1] * rows, None  # pictures without placeholders (BLIP's dummy), or not tiled
    elif not is_overview_first:
        runs = _find_runs(ids, token_ids)
        counts = _count_rows_of_runs(runs, rows)
        if crops == "overview_last":
            sizes, widths = _size_pictures_before_overviews(ids, runs, counts)
        elif crops == "quarters":
            sizes = _split_into_pictures(_join_adjacent(runs, counts), views=5)
            widths = [2] * len(sizes)
        else:
            sizes = _split_into_pictures(_join_by_sample(runs, counts) if framed else counts, views)
    sizes = sizes or []
    grids = [
        [_find_place(number, width, columns) for number in range(size - 1)]
        for size, width in zip(sizes, widths or [0] * len(sizes), strict=True)
    ]
    pictures = [[OVERVIEW, *grid] if is_overview_first else [*grid, OVERVIEW] for grid in grids]
    return torch.tensor(list(chain.from_iterable(pictures)), device=ids.device)


def _find_place(number: int, width: int, columns: int) -> int:
    """The place of crop ``number`` of a grid of ``width`` columns in a grid of ``columns``."""
    if not width or not columns:
        return number
    row, column = divmod(number, width)
    return row * columns + column if column < columns else OUTSIDE


Run = tuple[int, int, int]
"""A run of placeholders: row of the batch, start and length."""


def _find_runs(ids: Tensor, token_ids: list[int]) -> list[Run]:
    """The runs of placeholders, in order."""
    visual = torch.isin(ids, torch.tensor(token_ids, device=ids.device)).long()
    edges = torch.diff(nn.functional.pad(visual, (1, 1)))
    starts, ends = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
    return [(row, start, end - start) for (row, start), (_, end) in zip(starts, ends, strict=True)]


def _count_rows_of_runs(runs: list[Run], rows: int) -> list[int]:
    """Tower rows of each run, if all rows have the same number of placeholders; empty if that is impossible."""
    total = sum(length for *_, length in runs)
    per_row = total // rows
    return [length // per_row for *_, length in runs] if per_row and total == per_row * rows else []


def _split_into_pictures(counts: list[int], views: int) -> list[int]:
    """Tower rows of each picture: ``views``, or one for unsliced pictures, whose run ``views`` does not divide."""
    sizes: list[int] = []
    for count in counts:
        sizes += [views] * (count // views) if count % views == 0 else [1] * count
    return sizes


def _join_by_sample(runs: list[Run], counts: list[int]) -> list[int]:
    """Add up the ``counts`` of each sample."""
    totals: dict[int, int] = {}
    for (row, *_), count in zip(runs, counts, strict=False):
        totals[row] = totals.get(row, 0) + count
    return list(totals.values())


def _join_adjacent(runs: list[Run], counts: list[int]) -> list[int]:
    """Add up the ``counts`` of runs that a single token separates."""
    joined: list[int] = []
    end = (-1, -1)
    for (row, start, length), count in zip(runs, counts, strict=False):
        if (row, start - 1) == end:
            joined[-1] += count
        else:
            joined.append(count)
        end = (row, start + length)
    return joined


_TOKENS_BETWEEN_CROPS = 2
"""Tokens between two crops of one row in Idefics3: a mark and the second crop's name. A line break ends a row."""


def _size_pictures_before_overviews(
    ids: Tensor, runs: list[Run], counts: list[int]
) -> tuple[list[int], list[int] | None]:
    """Tower rows, and columns of the grid, of each picture where the overview comes last.

    In InternVL the crops of a picture are one run, which does not show the grid. In Idefics3 each crop is a run, and
    the same token precedes every overview: the one before the last run of a sample.
    """
    if any(count != 1 for count in counts):
        return counts, None
    before = [int(ids[row, start - 1]) for row, start, _ in runs]
    last = {row: token for (row, *_), token in zip(runs, before, strict=True)}
    sizes, widths, size, width = [], [], 0, 0
    for number, ((row, start, _), token) in enumerate(zip(runs, before, strict=True)):
        if size and not width and start - sum(runs[number - 1][1:]) > _TOKENS_BETWEEN_CROPS:
            width = size  # the first crop of the second row, or the overview
        size += 1
        if token == last[row]:
            sizes.append(size)
            widths.append(width)
            size = width = 0
    return sizes, widths


def count_tiles(pixels: Tensor) -> list[int]:
    """Count the tower rows of each picture of ``pixels`` [pictures, tiles, channels, height, width].

    Pictures are padded to the same number of tiles with zeros; the model drops those tiles.
    """
    return [max(1, int(count)) for count in pixels.flatten(2).any(dim=-1).sum(dim=-1)]
