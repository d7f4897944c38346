"""A 4-bit weight and a low-rank change of it, as one 16-bit weight: the change is added before the one rounding.

bitsandbytes dequantises a frozen NF4 weight into a 16-bit temporary for every product anyway. Adding s·B·A there, in
fp32, saves the adapter's own passes over the activations, where those are more than the weight's; added after the
rounding, small changes would drown (of one of size 1e-6 some 9 % remain). Knows tensors and bitsandbytes' format; knows
no layers.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops.dispatch import launches, use_triton


@dataclass(frozen=True)
class Packed:
    """A weight [Dout, Din] in NF4.

    Attributes:
        data: uint8, two values a byte, the first in the high half.
        absmax: largest of each block; uint8, of ``nested``'s code, where it is quantised itself.
        nested: of double quantisation: code [256], the blocks' own absmax, offset, and blocks that share one.
        code: [16], what the 4-bit values stand for.
        blocksize: values a block.
    """

    data: Tensor
    absmax: Tensor
    nested: tuple[Tensor, Tensor, Tensor, int] | None
    code: Tensor
    blocksize: int
    shape: tuple[int, int]


def packed(weight: Any) -> Packed | None:
    """What bitsandbytes keeps of a ``Linear4bit``'s weight; None for a weight that is not NF4, or was repacked."""
    state = getattr(weight, "quant_state", None)
    if state is None or state.quant_type != "nf4" or getattr(state, "packing_format_for_cpu", False):
        return None
    nested = None
    if state.nested:
        inner = state.state2
        nested = (inner.code, inner.absmax, torch.as_tensor(state.offset), inner.blocksize)
    return Packed(weight.data, state.absmax, nested, state.code, state.blocksize, tuple(state.shape))


MERGED_FROM = 2**14
"""Tokens from which a change is merged on a CPU. To merge costs as much for few as for many: a product forward and
backward took 1.48 times as long merged as with the change added in place for 512 tokens, 1.12 times for 2,048 and as
long for 16,384 (4096 × 4096, r 16, bf16; ``benchmarks/nf4.py``)."""


def merges(x: Tensor) -> bool:
    """Whether the change is best merged for a product with ``x`` [..., Din]: by the kernel, or of many tokens on a CPU.

    PyTorch on a GPU would make an fp32 weight on the way, 18 bytes a value moved against the kernel's 2.5.
    """
    if x.device.type == "cpu":
        return x.numel() // x.shape[-1] >= MERGED_FROM
    return use_triton("nf4", x, 1)


def merged(weight: Packed, up: Tensor | None, down: Tensor | None, scale: float, dtype: torch.dtype) -> Tensor:
    """W + s · up · down, ``[Dout, Din]``, added up in fp32 and rounded to ``dtype`` once.

    Args:
        up: ``[Dout, r]``; None for the weight alone.
        down: ``[r, Din]``.
    """
    if up is None or down is None:
        return _dequantised(weight, weight.data, _absmax(weight), weight.shape, dtype)
    like = weight.code.new_empty(0, dtype=dtype)
    if use_triton("nf4", like, 1):
        nested = weight.nested and (*(t.to(like.device) for t in weight.nested[:3]), weight.nested[3])
        return launches().nf4_merged(
            weight.data, weight.absmax, nested, weight.code, weight.blocksize, up, down, scale, weight.shape, dtype
        )
    (rows, width), absmax = weight.shape, _absmax(weight)
    out, up, down = weight.code.new_empty(weight.shape, dtype=dtype), up.float(), down.float()
    step = _rows_at_once(weight)
    for start in range(0, rows, step):
        here = slice(start, min(start + step, rows))
        first, last = here.start * width, here.stop * width
        data = weight.data.view(-1, 1)[first // 2 : -(-last // 2)]
        block = absmax[first // weight.blocksize : -(-last // weight.blocksize)]
        wide = _dequantised(weight, data, block, (here.stop - here.start, width), torch.float32)
        out[here] = wide.addmm_(up[here], down, alpha=scale)
    return out


def _rows_at_once(weight: Packed) -> int:
    """Rows that are merged together: whole blocks and, on a CPU, what its caches hold in fp32: 4096 × 4096 with rank
    16 takes 29 ms by a quarter of a million values, 62 ms at once."""
    rows, width = weight.shape
    whole = weight.blocksize // math.gcd(weight.blocksize, width)
    return max(whole, 2**18 // width // whole * whole) if weight.data.device.type == "cpu" else rows


def _absmax(weight: Packed) -> Tensor:
    """[blocks], in fp32."""
    if weight.nested is None:
        return weight.absmax
    code, largest, offset, size = weight.nested
    wide: Tensor = _ops().dequantize_blockwise(weight.absmax, largest, code, size, torch.float32)
    return wide + offset


def _dequantised(weight: Packed, data: Tensor, absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    wide: Tensor = _ops().dequantize_4bit(data, absmax, weight.blocksize, "nf4", shape, dtype)
    return wide


def _ops() -> Any:
    import bitsandbytes  # noqa: F401  # registers its ops

    return torch.ops.bitsandbytes
