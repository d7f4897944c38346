"""A 4-bit weight and a low-rank change of it, as one 16-bit weight: the change is added before the one rounding.

bitsandbytes dequantises a frozen NF4 weight into a 16-bit temporary for every product anyway. Adding s·B·A there, in
fp32, saves the adapter's own passes over the activations; added after the rounding, small changes would drown (of one
of size 1e-6 some 9 % remain). Knows tensors and bitsandbytes' format; knows no layers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops.kernels import use_triton


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


def merged(weight: Packed, up: Tensor | None, down: Tensor | None, scale: float, dtype: torch.dtype) -> Tensor:
    """W + s · up · down, ``[Dout, Din]``, added up in fp32 and rounded to ``dtype`` once.

    Args:
        up: ``[Dout, r]``; None for the weight alone.
        down: ``[r, Din]``.
    """
    like = weight.code.new_empty(0, dtype=dtype)
    if use_triton("nf4", like, 1):
        from lora_mm.ops import triton_launch

        nested = weight.nested and (*(t.to(like.device) for t in weight.nested[:3]), weight.nested[3])
        return triton_launch.nf4_merged(
            weight.data, weight.absmax, nested, weight.code, weight.blocksize, up, down, scale, weight.shape, dtype
        )
    wide = _dequantised(weight)
    if up is not None and down is not None:
        wide.addmm_(up.float(), down.float(), alpha=scale)
    return wide.to(dtype)


def _dequantised(weight: Packed) -> Tensor:
    import bitsandbytes  # noqa: F401  # registers its ops

    ops, absmax = torch.ops.bitsandbytes, weight.absmax
    if weight.nested is not None:
        code, largest, offset, size = weight.nested
        absmax = ops.dequantize_blockwise(absmax, largest, code, size, torch.float32) + offset
    wide: Tensor = ops.dequantize_4bit(weight.data, absmax, weight.blocksize, "nf4", weight.shape, torch.float32)
    return wide
