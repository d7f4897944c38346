"""The routed low-rank update, the one primitive under every adapter. Knows tensors; knows no model, method or modality.

    y[n] = base[n] + s · Σ_e w[n, e] · ( B_e (A_e x[n] + a_e) + b_e )

is computed as two thin products, with everything that depends on the routing between them, in rank space:

    h = x · Āᵀ + ā          shrink      Ā [K, Din]: one shared A (K = r) or the experts' stacked (K = E·r)
    z = s · w ⊙ h           route       [..., E·r]
    y = base + z · B̄ᵀ       expand      B̄ [Dout, E·r]: groups are zero blocks, expert biases are extra columns

A loop over experts would pass E times over the activations; here they are read once by each product.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops.primitive import expand_add, residual, route, shrink


def stack_up(up: Tensor, groups: int = 1) -> Tensor:
    """The experts' up-projections side by side, as one matrix for one product.

    Args:
        up: ``[E, Dout, r / groups]``. With ``groups`` g > 1 the outputs are cut into g equal runs and run i reads
            hidden units ``i·r/g … (i+1)·r/g - 1`` only (LaVIN's grouped 1×1 convolution).
        groups: g; divides both ``Dout`` and r.

    Returns:
        ``[Dout, E·r]``, block-diagonal within each expert when g > 1.
    """
    experts, d_out, r_group = up.shape
    runs = up.view(experts, groups, d_out // groups, r_group).permute(2, 0, 3, 1)  # [Dout/g, E, r/g, g]
    if groups == 1:
        return runs.reshape(d_out, -1)
    # [g, Dout/g, E, g, r/g], in one pass; a product with the unit matrix would take several
    return torch.diag_embed(runs, dim1=0, dim2=3).reshape(d_out, -1)


@dataclass(frozen=True)
class Update:
    """A routed low-rank update, as its two products and what weighs rank space between them.

    Attributes:
        down: Ā [K, Din], K = r or E·r; by row [E, r, Din].
        columns: B̄ [Dout, E·r (+ E)]; by row [E, Dout, r (+ 1)].
        down_bias: ā, broadcastable to h [..., K].
        weights: w, broadcastable to [..., E]; by row to [..., 1].
        keep: [..., K], what rank dropout multiplies h by: 0, or 1 / (1 - dropout).
        index: [rows], each row's expert, where an update goes by row.
        scale: s.
        experts: E; by row 1, as no more stand in a row's rank space.
        rank: r.
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

    @property
    def uniform(self) -> bool:
        """Whether it is one and the same s·B·A for all tokens."""
        routed = (self.down_bias, self.weights, self.keep, self.index)
        return self.columns.shape[-1] == self.rank and all(tensor is None for tensor in routed)

    def route(self, h: Tensor) -> Tensor:
        """z [..., C] of h [..., K]; see :func:`~.primitive.route`."""
        biased = self.columns.shape[-1] > self.experts * self.rank
        return route(h, self.weights, self.keep, self.scale, self.experts, self.rank, biased)


def uniform(down: Tensor, up: Tensor, scale: float) -> Update:
    """The update s · up · down of every token; ``down`` [r, Din], ``up`` [Dout, r]."""
    return Update(down, up, None, None, None, None, scale, experts=1, rank=len(down))


def update_of(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    *,
    down_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    weights: Tensor | None = None,
    index: Tensor | None = None,
    groups: int = 1,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Update:
    """The update of ``x`` [..., Din] by an adapter's parameters, cast to its dtype (masters stay fp32).

    An update that all tokens share stays uncast, as an NF4 weight takes it before it is rounded.

    Args:
        down: Ā, ``[r, Din]`` (shared by the experts) or ``[E·r, Din]``.
        up: ``[E, Dout, r / groups]``.
        down_bias: ā, ``[r]`` or ``[E·r]``.
        up_bias: ``[E, Dout]``.
        weights: w, broadcastable to ``[..., E]``; None weighs every expert with 1. With ``index``, ``[E]``.
        index: ``[rows]``, for x ``[rows, tokens, Din]``: the one expert of each row, which has its own A; rows of a
            negative index get no update.
        groups: see :func:`stack_up`.
        scale: s.
        dropout: probability with which a hidden unit is dropped; 0 outside training.
    """
    experts, d_out, r_group = up.shape
    rank, dtype = r_group * groups, x.dtype
    routed = any(tensor is not None for tensor in (down_bias, up_bias, weights, index))
    if experts == groups == 1 and not (routed or dropout):
        return uniform(down, up[0], scale)
    down, columns = down.to(dtype), stack_up(up.to(dtype), groups)
    down_bias, up_bias, weights = (None if t is None else t.to(dtype) for t in (down_bias, up_bias, weights))
    if index is None:
        columns = columns if up_bias is None else torch.cat([columns, up_bias.t()], dim=-1)
    else:
        own = index.clamp(min=0)
        down = down.view(experts, rank, -1)
        columns = columns.view(d_out, experts, rank).transpose(0, 1)
        columns = columns if up_bias is None else torch.cat([columns, up_bias.unsqueeze(-1)], dim=-1)
        down_bias = None if down_bias is None else down_bias.view(experts, 1, rank)[own]
        weights = None if weights is None else weights[own][:, None, None]
        experts = 1
    keep = F.dropout(x.new_ones(*x.shape[:-1], down.shape[-2]), dropout) if dropout else None
    return Update(down, columns, down_bias, weights, keep, index, scale, experts, rank)


def routed_update(
    base: Tensor, x: Tensor, down: Tensor, up: Tensor, *, norm: Tensor | None = None, eps: float = 0.0, **options: Any
) -> Tensor:
    """Add the routed low-rank update of ``x`` to ``base``.

    Args:
        base: ``[..., Dout]``; ``x`` itself where an input is adapted before it is read, which takes one pass less.
        x: ``[..., Din]``, the same leading shape as ``base``.
        down, up, options: see :func:`update_of`.
        norm, eps: γ [Din] and ε of an RMSNorm: ``base`` (which is ``x``) then is that norm's input, and what is
            updated and returned is its output. γ gets no gradient.

    Returns:
        ``[..., Dout]`` in the dtype of ``base``.
    """
    u = update_of(x, down, up, **options)
    down, columns = u.down.to(x.dtype), u.columns.to(base.dtype)
    if base is x and u.index is None:
        y: Tensor = residual(x, norm, eps, down, u.down_bias, columns, u.weights, u.keep, u.scale, u.experts, u.rank)[0]
        return y
    assert norm is None
    h = shrink(x, down, u.index)
    h = h if u.down_bias is None else h + u.down_bias
    updated: Tensor = expand_add(base, u.route(h).to(base.dtype), columns, u.index)
    return updated
