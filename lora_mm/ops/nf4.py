"""Dequantises an NF4 weight, alone or with a low-rank update that is merged into it before rounding to 16 bits.

bitsandbytes dequantises a frozen NF4 weight into a 16-bit temporary for every product anyway. Adding s·B·A there, in
fp32, saves the adapter's passes over the activations, which pays if there are more activations than weights. Added
after the rounding, small updates would be lost (9 % remain of an update of size 1e-6). Knows tensors; knows no layers.
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
"""Minimum number of tokens to merge an update on a CPU. The cost of merging does not depend on the tokens: forward and
backward of a product took 1.48 times as long merged as with the update added in place for 512 tokens, 1.12 times for
2,048, and as long for 16,384 (4096 × 4096, r 16, bf16; ``benchmarks/nf4.py``)."""


def merging_pays(x: Tensor, kernels: Kernels) -> bool:
    """Decide whether to merge the update: on a GPU if the Triton kernel runs, on a CPU for many tokens.

    PyTorch on a GPU would write a temporary fp32 weight and move 18 bytes per value; the kernel moves 2.5.

    Args:
        x: ``[..., Din]``, the layer's input.
        kernels: how operations run.
    """
    if x.device.type == "cpu":
        return x.numel() // x.shape[-1] >= MERGED_FROM
    return use_triton(kernels, "nf4", x, 1)


def dequantize(weight: NF4Weight, dtype: torch.dtype) -> Tensor:
    """Dequantise W ``[Dout, Din]`` to ``dtype``.

    Args:
        weight: W in NF4.
        dtype: of the result.
    """
    return _dequantize(weight, weight.data, _compute_absmax(weight), weight.shape, dtype)


def dequantize_and_merge(weight: NF4Weight, update: Update, dtype: torch.dtype) -> Tensor:
    """Compute W + s · B · A ``[Dout, Din]``, added in fp32 and rounded once.

    Args:
        weight: W in NF4.
        update: uniform; its ``columns`` are B [Dout, r] and its ``down`` A [r, Din], both uncast.
        dtype: of the result.
    """
    if use_triton(update.kernels, "nf4", weight.code.new_empty(0, dtype=dtype), 1):
        merged: Tensor = import_launchers().launch_nf4_merge(weight, update, dtype)
        return merged
    (rows, width), absmax = weight.shape, _compute_absmax(weight)
    up, down = update.columns.float(), update.down.float()
    out = weight.code.new_empty(weight.shape, dtype=dtype)
    chunk_rows = _count_chunk_rows(weight)
    for start in range(0, rows, chunk_rows):
        chunk = slice(start, min(start + chunk_rows, rows))
        first, last = chunk.start * width, chunk.stop * width
        data = weight.data.view(-1, 1)[first // 2 : -(-last // 2)]
        chunk_absmax = absmax[first // weight.blocksize : -(-last // weight.blocksize)]
        dense = _dequantize(weight, data, chunk_absmax, (chunk.stop - chunk.start, width), torch.float32)
        out[chunk] = dense.addmm_(up[chunk], down, alpha=update.scale)
    return out


def _count_chunk_rows(weight: NF4Weight) -> int:
    """Number of rows to merge at once: complete blocks and, on a CPU, 2^18 values, which fit its caches in fp32: 4096 ×
    4096 with rank 16 takes 29 ms in such chunks, 62 ms in one."""
    rows, width = weight.shape
    block_rows = weight.blocksize // math.gcd(weight.blocksize, width)
    return max(block_rows, 2**18 // width // block_rows * block_rows) if weight.data.device.type == "cpu" else rows


def _compute_absmax(weight: NF4Weight) -> Tensor:
    """The absmax of each block ``[blocks]``, in fp32."""
    nested = weight.nested
    if nested is None:
        return weight.absmax
    operation = _import_operations().dequantize_blockwise
    absmax: Tensor = operation(weight.absmax, nested.absmax, nested.code, nested.blocksize, torch.float32)
    return absmax + nested.offset


def _dequantize(weight: NF4Weight, data: Tensor, absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    dense: Tensor = _import_operations().dequantize_4bit(data, absmax, weight.blocksize, "nf4", shape, dtype)
    return dense


def _import_operations() -> Any:
    import bitsandbytes  # noqa: F401  # registers its operations

    return torch.ops.bitsandbytes
