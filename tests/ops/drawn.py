"""NF4 weights drawn bit by bit, and what they stand for, computed without bitsandbytes."""

import torch
from torch import Tensor

from lora_mm.ops.nf4_weight import NestedAbsmax, NF4Weight


def drawn_nf4(rows: int, width: int, *, nested: bool, second: int = 16) -> NF4Weight:
    """A weight in NF4, drawn bit by bit; blocks of 64 run across rows where ``width`` is no multiple of it."""
    blocks = rows * width // 64
    absmax: Tensor = torch.randint(0, 256, (blocks,), dtype=torch.uint8) if nested else torch.rand(blocks) + 0.5
    code, largest = torch.rand(256).sort().values, torch.rand(-(-blocks // second)) + 0.5
    outer = NestedAbsmax(code, largest, torch.tensor(0.75), second)
    data = torch.randint(0, 256, (rows * width // 2, 1), dtype=torch.uint8)
    return NF4Weight(data, absmax, outer if nested else None, torch.linspace(-1, 1, 16) ** 3, 64, (rows, width))


def decoded(weight: NF4Weight) -> Tensor:
    """The weight in float64, value by value."""
    data = weight.data.flatten()
    values = weight.code.double()[torch.stack([data >> 4, data & 15], dim=1).flatten().long()]
    absmax = weight.absmax.double()
    if weight.nested is not None:
        code, largest, offset, block = weight.nested
        spread = largest.double().repeat_interleave(block)[: len(absmax)]
        absmax = code.double()[weight.absmax.long()] * spread + offset.double()
    return (values * absmax.repeat_interleave(weight.blocksize)).view(weight.shape)
