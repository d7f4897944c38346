"""Launches the Triton kernels: chooses tiles and grids, allocates outputs. Imported only where Triton runs.

Tiles are a small static table, not a search at import. Every row compiles without spills for sm_80 to sm_120
(``tests/ops/test_triton_ahead_of_time.py``); no GPU has measured them yet.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from lora_mm.ops.nf4_weight import NestedAbsmax, NF4Weight
from lora_mm.ops.triton import kernels
from lora_mm.ops.triton.available import is_interpreted
from lora_mm.ops.update import Norm, Update


@dataclass(frozen=True)
class Tile:
    """The block of data that one program handles.

    Attributes:
        tokens: number of tokens; for ``nf4``, of rows of the weight.
        width: number of columns of the activations or the weight.
        warps: number of warps of a program.
        stages: number of stages of its software pipeline.
    """

    tokens: int
    width: int
    warps: int = 4
    stages: int = 2

    @property
    def options(self) -> dict[str, int]:
        """Warps and stages as keywords of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages}


TILES: dict[str, dict[int, Tile]] = {
    "expand": {16: Tile(64, 128), 32: Tile(64, 128), 64: Tile(64, 64)},
    "shrink": {16: Tile(32, 128), 32: Tile(32, 128), 64: Tile(32, 64)},
    "outer": {16: Tile(64, 64), 32: Tile(64, 64), 64: Tile(32, 64)},
    "residual": {16: Tile(32, 128), 32: Tile(32, 128), 64: Tile(32, 64)},
    "residual_bwd": {16: Tile(32, 128), 32: Tile(32, 64), 64: Tile(32, 64)},
    "nf4": {16: Tile(32, 128)},
}
"""Kernel → padded columns of rank space → tile. ``nf4`` handles 16 columns at a time."""

PROGRAMS = 256
"""Minimum number of programs for a sum over tokens, if there are enough tokens: about two per multiprocessor."""


def pad_columns(columns: int) -> int:
    """Round up to the columns of a tile: a power of two, at least 16 for the tensor cores."""
    return max(16, triton.next_power_of_2(columns))


def _make_output(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def _needs_upcast(x: Tensor) -> bool:
    return is_interpreted() and x.dtype == torch.bfloat16


def _count_rows(x: Tensor, index: Tensor | None) -> tuple[int, int]:
    """Number of rows, and of tokens in a row; without an index all tokens are one row."""
    return (1, x.numel() // x.shape[-1]) if index is None else (x.shape[0], x.shape[1])


def launch_expand(
    base: Tensor | None, z: Tensor, columns: Tensor, index: Tensor | None, *, in_place: bool = False
) -> Tensor:
    """Launch ``products.expand``. A program reads the block of ``base`` that it writes, so both may be one tensor.

    Args:
        base: ``[..., D]``; None for zeros.
        z: ``[..., C]``; by row ``[rows, tokens, C]``.
        columns: B ``[D, C]``; by row ``[E, D, C]``.
        index: ``[rows]``, each row's expert; None for one matrix.
        in_place: whether ``base`` may become the result.
    """
    z = z.contiguous()
    columns = columns.to(z.dtype)
    width, count = columns.shape[-2:]
    tile, padding = TILES["expand"][pad_columns(count)], pad_columns(count)
    rows, tokens = _count_rows(z, index)
    base = None if base is None else base.contiguous()
    y = base if in_place and base is not None else _make_output(z if base is None else base, *z.shape[:-1], width)
    strides = (columns.stride(0) if index is not None else 0, columns.stride(-2), columns.stride(-1))
    kernels.expand_kernel[(triton.cdiv(tokens, tile.tokens) * triton.cdiv(width, tile.width), rows)](
        y if base is None else base, z, columns, z if index is None else index, y,
        tokens, width, count, *strides,
        HAS_BASE=base is not None, INDEXED=index is not None,
        BT=tile.tokens, BD=tile.width, BC=padding, UPCAST=_needs_upcast(z), **tile.options,
    )  # fmt: skip
    return y


def launch_shrink(x: Tensor, down: Tensor, index: Tensor | None) -> Tensor:
    """Launch ``products.shrink``.

    Args:
        x: ``[..., D]``; by row ``[rows, tokens, D]``.
        down: A ``[C, D]``; by row ``[E, C, D]``.
        index: ``[rows]``, each row's expert; None for one matrix.
    """
    x = x.contiguous()
    count, width = down.shape[-2:]
    tile, padding = TILES["shrink"][pad_columns(count)], pad_columns(count)
    rows, tokens = _count_rows(x, index)
    h = _make_output(x, *x.shape[:-1], count)
    strides = (down.stride(0) if index is not None else 0, down.stride(-2), down.stride(-1))
    kernels.shrink_kernel[(triton.cdiv(tokens, tile.tokens), rows)](
        x, down.to(x.dtype), x if index is None else index, h, tokens, width, count, *strides,
        INDEXED=index is not None, BT=tile.tokens, BD=tile.width, BC=padding, UPCAST=_needs_upcast(x), **tile.options,
    )  # fmt: skip
    return h


def launch_outer(x: Tensor, z: Tensor, index: Tensor | None, experts: int) -> Tensor:
    """Launch ``products.outer``; sums in fp32.

    Args:
        x: ``[..., D]``; by row ``[rows, tokens, D]``.
        z: ``[..., C]``; by row ``[rows, tokens, C]``.
        index: ``[rows]``, each row's expert; None for one sum.
        experts: E, the number of sums by row.
    """
    x, z = x.contiguous(), z.to(x.dtype).contiguous()
    width, count = x.shape[-1], z.shape[-1]
    tile, padding = TILES["outer"][pad_columns(count)], pad_columns(count)
    rows, tokens = _count_rows(x, index)
    experts = 1 if index is None else experts
    blocks = triton.cdiv(width, tile.width) * experts
    parts = max(1, min(triton.cdiv(PROGRAMS, blocks), triton.cdiv(tokens, 4 * tile.tokens)))
    chunk = triton.cdiv(triton.cdiv(tokens, parts), tile.tokens) * tile.tokens
    out = _make_output(x, parts, experts, count, width, dtype=torch.float32)
    kernels.outer_kernel[(triton.cdiv(width, tile.width), experts, parts)](
        x, z, x if index is None else index, out, rows, tokens, chunk, width, count,
        INDEXED=index is not None, BT=tile.tokens, BD=tile.width, BC=padding, UPCAST=_needs_upcast(x), **tile.options,
    )  # fmt: skip
    summed = out.sum(dim=0).to(x.dtype)
    return summed[0] if index is None else summed


@dataclass(frozen=True)
class _RankSpace:
    """The arguments of the residual's two kernels that describe rank space."""

    pointers: tuple[Any, ...]
    numbers: tuple[Any, ...]
    flags: dict[str, Any]


def _describe_rank_space(x: Tensor, norm_weight: Tensor | None, update: Update) -> _RankSpace:
    weights, strides = x, (0, 0, 0)
    row = x.shape[-2] if x.dim() > 2 else 1
    if update.weights is not None:
        weights = update.weights.expand(*x.shape[:-1], update.experts)
        if x.dim() > 3:
            weights = weights.reshape(-1, row, update.experts)
        first, *middle, last = weights.stride()
        strides = (first, middle[0] if middle else 0, last)
    down, columns = update.down.contiguous(), update.columns.contiguous()
    optional = (norm_weight, down, update.down_bias, columns, weights, update.keep)
    pointers = tuple(x if tensor is None else tensor for tensor in optional)
    width, core = x.shape[-1], update.experts * update.rank
    numbers = (x.numel() // width, row, width, columns.shape[1], down.shape[0], core, update.rank, *strides)
    flags = {
        "NORM": norm_weight is not None, "BIAS": update.down_bias is not None,
        "WEIGHTS": update.weights is not None, "KEEP": update.keep is not None,
        "BC": pad_columns(columns.shape[1]), "UPCAST": _needs_upcast(x),
    }  # fmt: skip
    return _RankSpace(pointers, numbers, flags)


def launch_residual(x: Tensor, norm: Norm | None, update: Update) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward of ``residual.update_residual``.

    Args:
        x: ``[..., D]``.
        norm: the RMSNorm folded in; None for none.
        update: from D to D, not by row.

    Returns:
        y ``[..., D]``, h ``[..., K]`` and 1 / rms(x) ``[..., 1]`` (empty without a norm).
    """
    x = x.contiguous()
    weight, eps = (None, 0.0) if norm is None else norm
    rank_space = _describe_rank_space(x, weight, update)
    tile = TILES["residual"][rank_space.flags["BC"]]
    y, h = _make_output(x, *x.shape), _make_output(x, *x.shape[:-1], update.down.shape[0])
    rstd = _make_output(x, 0) if norm is None else _make_output(x, *x.shape[:-1], 1, dtype=torch.float32)
    kernels.residual_kernel[(triton.cdiv(rank_space.numbers[0], tile.tokens),)](
        x, *rank_space.pointers, y, h, y if norm is None else rstd, *rank_space.numbers, eps, update.scale,
        BT=tile.tokens, BD=tile.width, **rank_space.flags, **tile.options,
    )  # fmt: skip
    return y, h, rstd


def launch_residual_bwd(
    dy: Tensor, x: Tensor, h: Tensor, rstd: Tensor, norm_weight: Tensor | None, update: Update
) -> tuple[Tensor, Tensor]:
    """Launch the backward of ``residual.update_residual``; the sums over tokens are :func:`launch_outer`'s.

    Args:
        dy: ``[..., D]``.
        x: ``[..., D]``, of the forward.
        h: ``[..., K]``, of the forward.
        rstd: 1 / rms(x), of the forward.
        norm_weight: γ ``[D]`` of the RMSNorm folded in; None for none.
        update: of the forward.

    Returns:
        dx ``[..., D]``, through the norm, and dz ``[..., C]``.
    """
    x = x.contiguous()
    rank_space = _describe_rank_space(x, norm_weight, update)
    tile = TILES["residual_bwd"][rank_space.flags["BC"]]
    dx, dz = _make_output(x, *x.shape), _make_output(x, *x.shape[:-1], update.columns.shape[1])
    kernels.residual_bwd_kernel[(triton.cdiv(rank_space.numbers[0], tile.tokens),)](
        dy.contiguous(), x, *rank_space.pointers, h, x if norm_weight is None else rstd, dx, dz,
        *rank_space.numbers, update.scale, BT=tile.tokens, BD=tile.width, **rank_space.flags, **tile.options,
    )  # fmt: skip
    return dx, dz


def launch_nf4_merge(weight: NF4Weight, update: Update, dtype: torch.dtype) -> Tensor:
    """Launch ``nf4.dequantize_and_merge``.

    Args:
        weight: W [Dout, Din] in NF4.
        update: uniform.
        dtype: of the result.
    """
    rows, width = weight.shape
    tile, code, nested = TILES["nf4"][16], weight.code, weight.nested
    out = _make_output(weight.data, rows, width, dtype=dtype)
    code8, absmax2, offset, block2 = nested or NestedAbsmax(code, code, code, 1)
    code8, absmax2, offset = (tensor.to(out.device) for tensor in (code8, absmax2, offset))
    kernels.nf4_merged_kernel[(triton.cdiv(rows, tile.tokens), triton.cdiv(width, tile.width))](
        weight.data.view(-1), weight.absmax, code8, absmax2, offset, code,
        update.columns.float().contiguous(), update.down.float().contiguous(), out,
        rows, width, update.rank, update.scale,
        NESTED=nested is not None, BLOCK=weight.blocksize, BLOCK2=block2,
        BM=tile.tokens, BD=tile.width, BC=16, **tile.options,
    )  # fmt: skip
    return out
