"""The three thin products under every update, in PyTorch or in Triton. Knows no routing and no gradients.

    shrink   h = x · Aᵀ              x [..., D], A [C, D]
    expand   y = base + z · Bᵀ       z [..., C], B [D, C]
    outer    Σ over tokens of z ⊗ x  [C, D]

By row, with ``index`` [rows], x is [rows, tokens, D] and each row uses the matrix of its expert: A [E, C, D], B
[E, D, C], and ``outer`` gives one sum [C, D] per expert. A row with a negative index has no expert: its h is zero, its
y is base, and no sum includes it.
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops.dispatch import import_launchers, use_triton
from lora_mm.ops.kernel_choice import Kernels


def shrink(x: Tensor, down: Tensor, index: Tensor | None, kernels: Kernels) -> Tensor:
    """Project ``x`` into rank space.

    Args:
        x: ``[..., D]``; by row ``[rows, tokens, D]``.
        down: A ``[C, D]``; by row ``[E, C, D]``.
        index: ``[rows]``, each row's expert; None for one matrix.
        kernels: how operations run.

    Returns:
        h ``[..., C]``.
    """
    if index is None:
        return F.linear(x, down)  # cuBLAS reads x only once, too: a kernel would gain nothing
    if use_triton(kernels, "grouped", x, down.shape[1]):
        projected: Tensor = import_launchers().launch_shrink(x, down, index)
        return projected
    h, size = x.new_zeros(*x.shape[:-1], down.shape[1]), x.shape[1] * x.shape[2]
    for run in _find_runs(index, size):
        torch.bmm(x[run], _gather(down, index[run]).transpose(1, 2), out=h[run])
    return _zero_rows_without_expert(h, index, size)


def expand(
    base: Tensor | None, z: Tensor, columns: Tensor, index: Tensor | None, kernels: Kernels, *, in_place: bool = False
) -> Tensor:
    """Project ``z`` out of rank space and add it to ``base``.

    Args:
        base: ``[..., D]``; None for zeros.
        z: ``[..., C]``; by row ``[rows, tokens, C]``.
        columns: B ``[D, C]``; by row ``[E, D, C]``.
        index: ``[rows]``, each row's expert; None for one matrix.
        kernels: how operations run.
        in_place: whether ``base`` may become the result.

    Returns:
        y ``[..., D]``.
    """
    if use_triton(kernels, "expand" if index is None else "grouped", z if base is None else base, z.shape[-1]):
        launched: Tensor = import_launchers().launch_expand(base, z, columns, index, in_place=in_place)
        return launched
    if index is None:
        return _expand_by_one_matrix(base, z, columns, in_place=in_place)
    if base is None:
        base, in_place = z.new_zeros(*z.shape[:-1], columns.shape[1]), True
    size = base.shape[1] * base.shape[2]
    y = base if in_place else base.clone(memory_format=torch.contiguous_format)
    z = _zero_rows_without_expert(z, index, size)
    for run in _find_runs(index, size):
        y[run].baddbmm_(z[run], _gather(columns, index[run]).transpose(1, 2))
    return y


def _expand_by_one_matrix(base: Tensor | None, z: Tensor, columns: Tensor, *, in_place: bool) -> Tensor:
    if base is None:
        return F.linear(z, columns)
    if in_place:
        base.view(-1, base.shape[-1]).addmm_(flat(z), columns.t())
        return base
    return torch.addmm(flat(base), flat(z), columns.t()).view(base.shape)


def outer(x: Tensor, z: Tensor, index: Tensor | None, experts: int, kernels: Kernels) -> Tensor:
    """Sum z ⊗ x over tokens in a fixed order, so that two runs agree to the bit.

    Args:
        x: ``[..., D]``; by row ``[rows, tokens, D]``.
        z: ``[..., C]``; by row ``[rows, tokens, C]``.
        index: ``[rows]``, each row's expert; None for one sum.
        experts: E, the number of sums by row.
        kernels: how operations run.

    Returns:
        ``[C, D]``; by row ``[E, C, D]``.
    """
    if use_triton(kernels, "expand" if index is None else "grouped", x, z.shape[-1]):
        summed: Tensor = import_launchers().launch_outer(x, z, index, experts)
        return summed
    if index is None:
        return flat(z).t() @ flat(x)
    size = x.shape[1] * x.shape[2]
    runs, z = _find_runs(index, size), _zero_rows_without_expert(z, index, size)
    if not runs:
        return x.new_zeros(experts, z.shape[-1], x.shape[-1])
    by_row = torch.cat([torch.bmm(z[run].transpose(1, 2), x[run]) for run in runs])
    # a product, because index_add is not deterministic on a GPU, and rounds after every addition
    is_expert = torch.cat([index[run] for run in runs]) == torch.arange(experts, device=index.device)[:, None]
    return (is_expert.to(by_row.dtype) @ by_row.flatten(1)).view(experts, *by_row.shape[1:])


def flat(x: Tensor) -> Tensor:
    """``x`` [..., D] as [tokens, D]; a view if possible."""
    return x.reshape(-1, x.shape[-1])


def _gather(matrices: Tensor, index: Tensor) -> Tensor:
    """Each row's matrix; any matrix for a row without an expert."""
    return matrices[index.clamp(min=0)]


LARGE = 2**17
"""Minimum number of values in a row to skip rows without an expert, with one product per run of the other rows; below
it, rows without an expert are multiplied by zero. Forward and backward of a layer and its update: 15.8 ms with skipping
and 28.0 ms without for 5 rows of 1024 × 1664 (fp32), 4.4 and 2.1 ms for 80 rows of 37 × 192 (bf16), by
``benchmarks/crops.py``."""


def _skips(index: Tensor, size: int) -> bool:
    """Whether to skip rows without an expert, of ``size`` values; never on a GPU, as reading ``index`` would wait."""
    return size >= LARGE and index.device.type == "cpu"


def _find_runs(index: Tensor, size: int) -> list[slice]:
    """The runs of rows that have an expert; one run of all rows if none is skipped."""
    if not _skips(index, size):
        return [slice(0, len(index))]
    runs, start = [], 0
    for has_expert, run in groupby(expert >= 0 for expert in index.tolist()):
        end = start + len(list(run))
        if has_expert:
            runs.append(slice(start, end))
        start = end
    return runs


def _zero_rows_without_expert(t: Tensor, index: Tensor, size: int) -> Tensor:
    """``t`` with zeros in rows without an expert, unless :func:`_find_runs` skips them."""
    return t if _skips(index, size) else t * (index >= 0).to(t.dtype)[:, None, None]
