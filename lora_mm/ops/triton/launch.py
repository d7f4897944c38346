"""Launching the Triton kernels: tiles, grids, outputs. Imported only where Triton is to run. Knows no fallbacks.

Tiles are a small static table, not a search at import. They were chosen so that every row compiles without spills for
sm_80 to sm_120 (``tests/ops/test_triton_ahead_of_time.py``); no GPU has measured them yet.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from lora_mm.ops.dispatch import interpreted
from lora_mm.ops.triton import kernels


@dataclass(frozen=True)
class Tile:
    """Tokens and width of a program's block, its warps and its pipeline stages."""

    tokens: int
    width: int
    warps: int = 4
    stages: int = 2

    @property
    def options(self) -> dict[str, int]:
        """As the launch takes them."""
        return {"num_warps": self.warps, "num_stages": self.stages}


TILES: dict[str, dict[int, Tile]] = {
    "expand": {16: Tile(64, 128), 32: Tile(64, 128), 64: Tile(64, 64)},
    "shrink": {16: Tile(32, 128), 32: Tile(32, 128), 64: Tile(32, 64)},
    "outer": {16: Tile(64, 64), 32: Tile(64, 64), 64: Tile(32, 64)},
    "residual": {16: Tile(32, 128), 32: Tile(32, 128), 64: Tile(32, 64)},
    "residual_bwd": {16: Tile(32, 128), 32: Tile(32, 64), 64: Tile(32, 64)},
    "nf4": {16: Tile(32, 128)},
}
"""Kernel → columns of rank space, padded → tile. NF4: rows of the weight for tokens, the rank in turns of 16."""

PROGRAMS = 256
"""Programs that a sum over tokens is cut into at least, where there are tokens enough: some two a multiprocessor."""


def padded(columns: int) -> int:
    """Columns as the tiles have them: a power of two that a tensor core takes."""
    return max(16, triton.next_power_of_2(columns))


def _new(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def _upcast(x: Tensor) -> bool:
    return interpreted() and x.dtype == torch.bfloat16


def _split(x: Tensor, index: Tensor | None) -> tuple[int, int]:
    """Rows and tokens a row; without an index all tokens are one row."""
    return (1, x.numel() // x.shape[-1]) if index is None else (x.shape[0], x.shape[1])


def expand(base: Tensor | None, z: Tensor, columns: Tensor, index: Tensor | None, *, into: bool = False) -> Tensor:
    """See ``products.expand``; a program reads the block of ``base`` that it writes, so that both may be one tensor."""
    z = z.contiguous()
    columns = columns.to(z.dtype)
    width, count = columns.shape[-2:]
    tile, padding = TILES["expand"][padded(count)], padded(count)
    rows, tokens = _split(z, index)
    base = None if base is None else base.contiguous()
    y = base if into and base is not None else _new(z if base is None else base, *z.shape[:-1], width)
    strides = (columns.stride(0) if index is not None else 0, columns.stride(-2), columns.stride(-1))
    kernels.expand_kernel[(triton.cdiv(tokens, tile.tokens) * triton.cdiv(width, tile.width), rows)](
        y if base is None else base, z, columns, z if index is None else index, y,
        tokens, width, count, *strides,
        HAS_BASE=base is not None, INDEXED=index is not None,
        BT=tile.tokens, BD=tile.width, BC=padding, UPCAST=_upcast(z), **tile.options,
    )  # fmt: skip
    return y


def shrink(x: Tensor, down: Tensor, index: Tensor | None) -> Tensor:
    """See ``products.shrink``."""
    x = x.contiguous()
    count, width = down.shape[-2:]
    tile, padding = TILES["shrink"][padded(count)], padded(count)
    rows, tokens = _split(x, index)
    h = _new(x, *x.shape[:-1], count)
    strides = (down.stride(0) if index is not None else 0, down.stride(-2), down.stride(-1))
    kernels.shrink_kernel[(triton.cdiv(tokens, tile.tokens), rows)](
        x, down.to(x.dtype), x if index is None else index, h, tokens, width, count, *strides,
        INDEXED=index is not None, BT=tile.tokens, BD=tile.width, BC=padding, UPCAST=_upcast(x), **tile.options,
    )  # fmt: skip
    return h


def outer(x: Tensor, z: Tensor, index: Tensor | None, experts: int) -> Tensor:
    """See ``products.outer``; summed in fp32."""
    x, z = x.contiguous(), z.to(x.dtype).contiguous()
    width, count = x.shape[-1], z.shape[-1]
    tile, padding = TILES["outer"][padded(count)], padded(count)
    rows, tokens = _split(x, index)
    experts = 1 if index is None else experts
    blocks = triton.cdiv(width, tile.width) * experts
    parts = max(1, min(triton.cdiv(PROGRAMS, blocks), triton.cdiv(tokens, 4 * tile.tokens)))
    chunk = triton.cdiv(triton.cdiv(tokens, parts), tile.tokens) * tile.tokens
    out = _new(x, parts, experts, count, width, dtype=torch.float32)
    kernels.outer_kernel[(triton.cdiv(width, tile.width), experts, parts)](
        x, z, x if index is None else index, out, rows, tokens, chunk, width, count,
        INDEXED=index is not None, BT=tile.tokens, BD=tile.width, BC=padding, UPCAST=_upcast(x), **tile.options,
    )  # fmt: skip
    summed = out.sum(dim=0).to(x.dtype)
    return summed[0] if index is None else summed


@dataclass(frozen=True)
class _Routing:
    """What the residual's two kernels need to know of rank space."""

    pointers: tuple[Any, ...]
    numbers: tuple[Any, ...]
    flags: dict[str, Any]


def _routing(
    x: Tensor,
    norm: Tensor | None,
    down: Tensor,
    bias: Tensor | None,
    columns: Tensor,
    weights: Tensor | None,
    keep: Tensor | None,
    experts: int,
    rank: int,
) -> _Routing:
    spread, strides = x, (0, 0, 0)
    row = x.shape[-2] if x.dim() > 2 else 1
    if weights is not None:
        spread = weights.expand(*x.shape[:-1], experts)
        if x.dim() > 3:
            spread = spread.reshape(-1, row, experts)
        strides = tuple(spread.stride())
        strides = strides if len(strides) == 3 else (strides[0], 0, strides[-1])
    optional = (norm, down.contiguous(), bias, columns.contiguous(), spread, keep)
    pointers = tuple(x if tensor is None else tensor for tensor in optional)
    width = x.shape[-1]
    numbers = (x.numel() // width, row, width, columns.shape[1], down.shape[0], experts * rank, rank, *strides)
    flags = {
        "NORM": norm is not None, "BIAS": bias is not None, "WEIGHTS": weights is not None, "KEEP": keep is not None,
        "BC": padded(columns.shape[1]), "UPCAST": _upcast(x),
    }  # fmt: skip
    return _Routing(pointers, numbers, flags)


def residual(
    x: Tensor,
    norm: Tensor | None,
    eps: float,
    down: Tensor,
    bias: Tensor | None,
    columns: Tensor,
    weights: Tensor | None,
    keep: Tensor | None,
    scale: float,
    experts: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``primitive.residual``."""
    x = x.contiguous()
    rank_space = _routing(x, norm, down, bias, columns, weights, keep, experts, rank)
    tile = TILES["residual"][rank_space.flags["BC"]]
    y, h = _new(x, *x.shape), _new(x, *x.shape[:-1], down.shape[0])
    rstd = _new(x, 0) if norm is None else _new(x, *x.shape[:-1], 1, dtype=torch.float32)
    kernels.residual_kernel[(triton.cdiv(rank_space.numbers[0], tile.tokens),)](
        x, *rank_space.pointers, y, h, y if norm is None else rstd, *rank_space.numbers, eps, scale,
        BT=tile.tokens, BD=tile.width, **rank_space.flags, **tile.options,
    )  # fmt: skip
    return y, h, rstd


def residual_bwd(
    dy: Tensor,
    x: Tensor,
    h: Tensor,
    rstd: Tensor,
    norm: Tensor | None,
    down: Tensor,
    bias: Tensor | None,
    columns: Tensor,
    weights: Tensor | None,
    keep: Tensor | None,
    scale: float,
    experts: int,
    rank: int,
) -> tuple[Tensor, Tensor]:
    """dx, through the norm, and dz; the sums over tokens are :func:`outer`'s."""
    x = x.contiguous()
    rank_space = _routing(x, norm, down, bias, columns, weights, keep, experts, rank)
    tile = TILES["residual_bwd"][rank_space.flags["BC"]]
    dx, dz = _new(x, *x.shape), _new(x, *x.shape[:-1], columns.shape[1])
    kernels.residual_bwd_kernel[(triton.cdiv(rank_space.numbers[0], tile.tokens),)](
        dy.contiguous(), x, *rank_space.pointers, h, x if norm is None else rstd, dx, dz, *rank_space.numbers, scale,
        BT=tile.tokens, BD=tile.width, **rank_space.flags, **tile.options,
    )  # fmt: skip
    return dx, dz


def nf4_merged(
    packed: Tensor,
    absmax: Tensor,
    nested: tuple[Tensor, Tensor, Tensor, int] | None,
    code: Tensor,
    blocksize: int,
    up: Tensor,
    down: Tensor,
    scale: float,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """See ``nf4.merged``. ``nested``: the 8-bit code, the second absmax, the offset, the second block size."""
    rows, width = shape
    tile = TILES["nf4"][16]
    out = _new(packed, rows, width, dtype=dtype)
    code8, absmax2, offset, block2 = nested or (code, code, code, 1)
    kernels.nf4_merged_kernel[(triton.cdiv(rows, tile.tokens), triton.cdiv(width, tile.width))](
        packed.view(-1), absmax, code8, absmax2, offset, code,
        up.float().contiguous(), down.float().contiguous(), out,
        rows, width, up.shape[1], scale,
        NESTED=nested is not None, BLOCK=blocksize, BLOCK2=block2,
        BM=tile.tokens, BD=tile.width, BC=16, **tile.options,
    )  # fmt: skip
    return out
