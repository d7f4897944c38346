"""A routed low-rank update as a record, and its computation in rank space. Knows tensors; knows no kernels.

z = s · w ⊙ keep ⊙ h       [..., E·r], followed by s · w: one column for each expert's bias
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lora_mm.ops.kernel_choice import Kernels

UPDATE_SCHEMA = (
    "Tensor down, Tensor columns, Tensor? down_bias, Tensor? weights, Tensor? keep, Tensor? index, "
    "float scale, int experts, int rank, str kernels"
)
"""The fields of :class:`Update` in order, as ``torch.library`` writes the arguments of an operation."""


class Norm(NamedTuple):
    """An RMSNorm: its weight γ [D] and its ε."""

    weight: Tensor
    eps: float


@dataclass
class Update:
    """A routed low-rank update: the matrices of its two products, and the factors of rank space between them.

    Not frozen, although it never changes: layers make several in every step, and a frozen dataclass of ten fields takes
    8.3 µs to make, this one 1.3 µs.

    Attributes:
        down: Ā [K, Din], K = r or E·r; by row [E, r, Din].
        columns: B̄ [Dout, E·r (+ E)]; by row [E, Dout, r (+ 1)].
        down_bias: ā, broadcastable to h [..., K].
        weights: w, broadcastable to [..., E]; by row to [..., 1].
        keep: [..., K], the mask of rank dropout: 0, or 1 / (1 - dropout).
        index: [rows], each row's expert, for an update by row.
        scale: s.
        experts: E; by row 1, as a row's rank space holds one expert.
        rank: r.
        kernels: how its operations run.
    """

    down: Tensor
    columns: Tensor
    down_bias: Tensor | None
    weights: Tensor | None
    keep: Tensor | None
    index: Tensor | None
    scale: float
    experts: int
    rank: int
    kernels: Kernels

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The fields that are tensors, in order."""
        return (self.down, self.columns, self.down_bias, self.weights, self.keep, self.index)

    @property
    def settings(self) -> tuple[Any, ...]:
        """The other fields, in order."""
        return (self.scale, self.experts, self.rank, self.kernels)

    @property
    def is_uniform(self) -> bool:
        """Whether all tokens get the same s·B·A."""
        routed = (self.down_bias, self.weights, self.keep, self.index)
        return self.columns.shape[-1] == self.rank and all(tensor is None for tensor in routed)

    def route(self, h: Tensor) -> Tensor:
        """Compute z [..., C] from h [..., K], which the experts share (K = r) or not (K = E·r)."""
        weights, experts = self.weights, self.experts
        is_biased = self.columns.shape[-1] > experts * self.rank
        z = self._drop(h).unflatten(-1, (-1, self.rank))
        if weights is None and (is_biased or z.shape[-2] != experts):
            weights = h.new_ones(experts)
        if weights is not None:
            z = z * weights.unsqueeze(-1)
        z = z.flatten(-2)
        if is_biased:
            assert weights is not None
            z = torch.cat([z, weights.expand(*z.shape[:-1], experts)], dim=-1)
        return z if self.scale == 1.0 else z * self.scale

    def route_bwd(self, dz: Tensor, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of :meth:`route`.

        Args:
            dz: ``[..., C]``.
            h: ``[..., K]``.

        Returns:
            dh ``[..., K]``, and dw in the shape of ``weights``; None without weights.
        """
        dz = dz if self.scale == 1.0 else dz * self.scale
        width = self.experts * self.rank
        core = dz[..., :width].unflatten(-1, (self.experts, self.rank))
        dweights = None
        if self.weights is not None:
            weighted = self._drop(h).unflatten(-1, (-1, self.rank))
            # in fp32, because the sum runs over tokens too, and its terms cancel
            per_expert = (core * weighted).sum(dim=-1, dtype=get_sum_dtype(h))
            if dz.shape[-1] > width:
                per_expert = per_expert + dz[..., width:]
            dweights = per_expert.sum_to_size(self.weights.shape).to(self.weights.dtype)
            core = core * self.weights.unsqueeze(-1)
        dh = core.sum(dim=-2) if h.shape[-1] != width else core.flatten(-2)
        return self._drop(dh), dweights

    def _drop(self, h: Tensor) -> Tensor:
        return h if self.keep is None else h * self.keep


def get_sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over ``x``: fp32 for 16-bit tensors, else the dtype of ``x``."""
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
