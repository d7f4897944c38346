"""A 4-bit weight and a low-rank update of it, as one 16-bit weight: the update is added before the one rounding.

bitsandbytes dequantises a frozen NF4 weight into a 16-bit temporary for every product anyway. Adding s·B·A there, in
fp32, saves the adapter's own passes over the activations, where those are more than the weight's; added after the
rounding, small updates would drown (of one of size 1e-6 some 9 % remain). Knows tensors; knows no layers.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops.dispatch import import_launchers, use_triton
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.nf4_weight import NF4Weight
from lora_mm.ops.update import Update

MERGED_FROM = 2**14
"""Tokens from which an update is merged on a CPU. To merge costs as much for few as for many: a product forward and
backward took 1.48 times as long merged as with the update added in place for 512 tokens, 1.12 times for 2,048 and as
long for 16,384 (4096 × 4096, r 16, bf16; ``benchmarks/nf4.py``)."""


def merging_pays(x: Tensor, kernels: Kernels) -> bool:
    """Whether the update is best merged: by the kernel on a GPU, or of many tokens on a CPU.

    PyTorch on a GPU would make an fp32 weight on the way, 18 bytes a value moved against the kernel's 2.5.

    Args:
        x: ``[..., Din]``, which the weight is multiplied by.
        kernels: the form in which operations run.
    """
    if x.device.type == "cpu":
        return x.numel() // x.shape[-1] >= MERGED_FROM
    return use_triton(kernels, "nf4", x, 1)


def dequantize(weight: NF4Weight, dtype: torch.dtype) -> Tensor:
    """W ``[Dout, Din]`` in ``dtype``.

    Args:
        weight: W in NF4.
        dtype: of the result.
    """
    return _dequantize(weight, weight.data, _compute_absmax(weight), weight.shape, dtype)


def dequantize_and_merge(weight: NF4Weight, update: Update, dtype: torch.dtype) -> Tensor:
    """W + s · B · A ``[Dout, Din]``, added in fp32 and rounded once.

    Args:
        weight: W in NF4.
        update: uniform; its ``columns`` are B [Dout, r] and its ``down`` A [r, Din], in the dtype of the masters.
        dtype: of the result.
    """
    if use_triton(update.kernels, "nf4", weight.code.new_empty(0, dtype=dtype), 1):
        merged: Tensor = import_launchers().launch_nf4_merge(weight, update, dtype)
        return merged
    (rows, width), absmax = weight.shape, _compute_absmax(weight)
    up, down = update.columns.float(), update.down.float()
    out = weight.code.new_empty(weight.shape, dtype=dtype)
    step = _count_rows_at_once(weight)
    for start in range(0, rows, step):
        turn = slice(start, min(start + step, rows))
        first, last = turn.start * width, turn.stop * width
        data = weight.data.view(-1, 1)[first // 2 : -(-last // 2)]
        block = absmax[first // weight.blocksize : -(-last // weight.blocksize)]
        wide = _dequantize(weight, data, block, (turn.stop - turn.start, width), torch.float32)
        out[turn] = wide.addmm_(up[turn], down, alpha=update.scale)
    return out


def _count_rows_at_once(weight: NF4Weight) -> int:
    """Rows that are merged together: whole blocks and, on a CPU, what its caches hold in fp32: 4096 × 4096 with rank
    16 takes 29 ms by a quarter of a million values, 62 ms at once."""
    rows, width = weight.shape
    whole = weight.blocksize // math.gcd(weight.blocksize, width)
    return max(whole, 2**18 // width // whole * whole) if weight.data.device.type == "cpu" else rows


def _compute_absmax(weight: NF4Weight) -> Tensor:
    """[blocks], in fp32."""
    nested = weight.nested
    if nested is None:
        return weight.absmax
    operation = _import_operations().dequantize_blockwise
    wide: Tensor = operation(weight.absmax, nested.absmax, nested.code, nested.blocksize, torch.float32)
    return wide + nested.offset


def _dequantize(weight: NF4Weight, data: Tensor, absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    wide: Tensor = _import_operations().dequantize_4bit(data, absmax, weight.blocksize, "nf4", shape, dtype)
    return wide


def _import_operations() -> Any:
    import bitsandbytes  # noqa: F401  # registers its operations

    return torch.ops.bitsandbytes
