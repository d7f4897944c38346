"""The three thin products under every update, in PyTorch or in Triton. Knows no routing and no gradients.

    shrink   h = x · Aᵀ              x [..., D], A [C, D]
    expand   y = base + z · Bᵀ       z [..., C], B [D, C]
    outer    Σ over tokens of z ⊗ x  [C, D]

With ``index`` [rows], x is [rows, tokens, D] and each row has the matrix of its own expert: A [E, C, D], B [E, D, C],
a sum [C, D] for each of E. A row of a negative index has none: its h is zero, its y is base, and it is in no sum.
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops.dispatch import launches, use_triton


def shrink(x: Tensor, down: Tensor, index: Tensor | None) -> Tensor:
    """h ``[..., C]``."""
    if index is None:
        return F.linear(x, down)  # cuBLAS reads x once: there is nothing to gain
    if use_triton("grouped", x, down.shape[1]):
        return launches().shrink(x, down, index)
    h, size = x.new_zeros(*x.shape[:-1], down.shape[1]), x.shape[1] * x.shape[2]
    for run in _runs(index, size):
        torch.bmm(x[run], _own(down, index[run]).transpose(1, 2), out=h[run])
    return _masked(h, index, size)


def expand(base: Tensor | None, z: Tensor, columns: Tensor, index: Tensor | None, *, into: bool = False) -> Tensor:
    """y ``[..., D]``, of base ``[..., D]`` or, for None, of zeros; ``into`` says that base may become it."""
    if use_triton("expand" if index is None else "grouped", z if base is None else base, z.shape[-1]):
        return launches().expand(base, z, columns, index, into=into)
    if index is None:
        return _expanded(base, z, columns, into=into)
    if base is None:
        base, into = z.new_zeros(*z.shape[:-1], columns.shape[1]), True
    size = base.shape[1] * base.shape[2]
    y, z = base if into else base.clone(memory_format=torch.contiguous_format), _masked(z, index, size)
    for run in _runs(index, size):
        y[run].baddbmm_(z[run], _own(columns, index[run]).transpose(1, 2))
    return y


def _expanded(base: Tensor | None, z: Tensor, columns: Tensor, *, into: bool) -> Tensor:
    if base is None:
        return F.linear(z, columns)
    if into:
        base.view(-1, base.shape[-1]).addmm_(flat(z), columns.t())
        return base
    return torch.addmm(flat(base), flat(z), columns.t()).view(base.shape)


def outer(x: Tensor, z: Tensor, index: Tensor | None, experts: int) -> Tensor:
    """Σ z ⊗ x, ``[C, D]`` or, by row, ``[experts, C, D]``; in one order, so that two runs agree to the bit."""
    if use_triton("expand" if index is None else "grouped", x, z.shape[-1]):
        return launches().outer(x, z, index, experts)
    if index is None:
        return flat(z).t() @ flat(x)
    size = x.shape[1] * x.shape[2]
    runs, z = _runs(index, size), _masked(z, index, size)
    if not runs:
        return x.new_zeros(experts, z.shape[-1], x.shape[-1])
    parts = torch.cat([torch.bmm(z[run].transpose(1, 2), x[run]) for run in runs])
    # as a product: index_add is not deterministic on a GPU, and one addition after the other rounds each time
    own = torch.cat([index[run] for run in runs]) == torch.arange(experts, device=index.device)[:, None]
    return (own.to(parts.dtype) @ parts.flatten(1)).view(experts, *parts.shape[1:])


def flat(x: Tensor) -> Tensor:
    """``x`` [..., D] as [tokens, D]; where that needs no copy, the same memory."""
    return x.reshape(-1, x.shape[-1])


def _own(matrices: Tensor, index: Tensor) -> Tensor:
    return matrices[index.clamp(min=0)]


LARGE = 2**17
"""Values of a row from which those without an expert are passed over, each run of rows as a product of its own. Beside
a layer, forward and backward: 15.8 ms passed over and 28.0 weighed with zero for 5 rows of 1024 × 1664 (fp32), 4.4 and
2.1 ms for 80 rows of 37 × 192 (bf16), by ``benchmarks/crops.py``."""


def _passes_over(index: Tensor, size: int) -> bool:
    """Whether rows of ``size`` values are passed over; never on a GPU, as to look at ``index`` would wait for it."""
    return size >= LARGE and index.device.type == "cpu"


def _runs(index: Tensor, size: int) -> list[slice]:
    """Rows that follow each other and have an expert, or all rows."""
    if not _passes_over(index, size):
        return [slice(0, len(index))]
    runs, start = [], 0
    for there, run in groupby(expert >= 0 for expert in index.tolist()):
        end = start + len(list(run))
        if there:
            runs.append(slice(start, end))
        start = end
    return runs


def _masked(t: Tensor, index: Tensor, size: int) -> Tensor:
    """``t`` with zeros in rows without an expert, where :func:`_runs` has them in."""
    return t if _passes_over(index, size) else t * (index >= 0).to(t.dtype)[:, None, None]
