"""A 4-bit weight in bitsandbytes' NF4 format, as plain tensors. Knows the format; computes nothing."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class NestedAbsmax(NamedTuple):
    """Double quantisation: how the absmax of the blocks are quantised in turn.

    Attributes:
        code: ``[256]``, the values that the 8-bit absmax stand for.
        absmax: the largest absmax of each block of absmax.
        offset: added to every absmax.
        blocksize: number of absmax in a block.
    """

    code: Tensor
    absmax: Tensor
    offset: Tensor
    blocksize: int


@dataclass(frozen=True)
class NF4Weight:
    """A weight [Dout, Din] in NF4.

    Attributes:
        data: uint8, two values a byte, the first in the high half.
        absmax: the largest absolute value of each block; with double quantisation uint8, which ``nested`` decodes.
        nested: how ``absmax`` is quantised; None without double quantisation.
        code: ``[16]``, the values that the 4-bit values stand for.
        blocksize: values a block.
        shape: (Dout, Din).
    """

    data: Tensor
    absmax: Tensor
    nested: NestedAbsmax | None
    code: Tensor
    blocksize: int
    shape: tuple[int, int]


def read_nf4_weight(weight: Any) -> NF4Weight | None:
    """Read the weight of bitsandbytes' ``Linear4bit``; None for a weight that is not NF4, or was repacked."""
    state = getattr(weight, "quant_state", None)
    if state is None or state.quant_type != "nf4" or getattr(state, "packing_format_for_cpu", False):
        return None
    nested = None
    if state.nested:
        inner = state.state2
        nested = NestedAbsmax(inner.code, inner.absmax, torch.as_tensor(state.offset), inner.blocksize)
    return NF4Weight(weight.data, state.absmax, nested, state.code, state.blocksize, tuple(state.shape))
