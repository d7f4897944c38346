"""The routed low-rank update, the one primitive under every adapter. Knows tensors; knows no model, method or modality.

    y[n] = base[n] + s · Σ_e w[n, e] · ( B_e (A_e x[n] + a_e) + b_e )

is computed as two thin products, with everything that depends on the routing between them, in rank space:

    h = x · Āᵀ + ā          shrink      Ā [K, Din]: one shared A (K = r) or the experts' stacked (K = E·r)
    z = s · w ⊙ h           route       [..., E·r]
    y = base + z · B̄ᵀ       expand      B̄ [Dout, E·r]: groups are zero blocks, expert biases are extra columns

A loop over experts would pass E times over the activations; here they are read once by each product.
"""

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
    # [g, Dout/g, E, g, r/g]; a product with the unit matrix says the same in six times the time (E 2, Dout 4096, r 8)
    return torch.diag_embed(runs, dim1=0, dim2=3).reshape(d_out, -1)


def routed_update(
    base: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    *,
    down_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    weights: Tensor | None = None,
    groups: int = 1,
    scale: float = 1.0,
    dropout: float = 0.0,
    norm: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Add the routed low-rank update of ``x`` to ``base``.

    Args:
        base: ``[..., Dout]``; ``x`` itself where an input is adapted before it is read, which takes one pass less.
        x: ``[..., Din]``, the same leading shape as ``base``.
        down: Ā, ``[r, Din]`` (shared by the experts) or ``[E·r, Din]``.
        up: ``[E, Dout, r / groups]``.
        down_bias: ā, ``[r]`` or ``[E·r]``.
        up_bias: ``[E, Dout]``.
        weights: w, broadcastable to ``[..., E]``; None weighs every expert with 1.
        groups: see :func:`stack_up`.
        scale: s.
        dropout: probability with which a hidden unit is dropped; 0 outside training.
        norm, eps: γ [Din] and ε of an RMSNorm: ``base`` (which is ``x``) then is that norm's input, and what is
            updated and returned is its output. γ gets no gradient.

    Returns:
        ``[..., Dout]`` in the dtype of ``base``. Parameters are cast to the dtype of ``x`` (masters stay fp32).
    """
    experts, _, r_group = up.shape
    rank, dtype = r_group * groups, x.dtype
    down, columns = down.to(dtype), _columns(up, up_bias, groups).to(base.dtype)
    weights = None if weights is None else weights.to(dtype)
    keep = _keep(x, len(down), dropout)
    if base is x:
        bias = None if down_bias is None else down_bias.to(dtype)
        y: Tensor = residual(x, norm, eps, down, bias, columns, weights, keep, scale, experts, rank)[0]
        return y
    assert norm is None
    h = shrink(x, down, None)
    if down_bias is not None:
        h = h + down_bias.to(dtype)
    z = route(h, weights, keep, scale, experts, rank, up_bias is not None)
    updated: Tensor = expand_add(base, z.to(base.dtype), columns, None)
    return updated


def _columns(up: Tensor, up_bias: Tensor | None, groups: int) -> Tensor:
    columns = stack_up(up, groups)
    return columns if up_bias is None else torch.cat([columns, up_bias.t()], dim=-1)


def _keep(x: Tensor, width: int, dropout: float) -> Tensor | None:
    """What rank dropout multiplies h by: 0, or 1 / (1 - dropout)."""
    return F.dropout(x.new_ones(*x.shape[:-1], width), dropout) if dropout else None


def grouped_update(
    base: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    *,
    index: Tensor,
    scales: Tensor | None = None,
    down_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    groups: int = 1,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Tensor:
    """Add to each row of ``base`` the low-rank update of its own expert: one batched product, whatever the experts.

    Args:
        base: ``[rows, tokens, Dout]``.
        x: ``[rows, tokens, Din]``.
        down: the experts' down-projections stacked, ``[E·r, Din]``.
        up: ``[E, Dout, r / groups]``.
        index: ``[rows]``, each row's expert; rows of a negative index get no update.
        scales: ``[E]``, a factor for each expert's update.
        down_bias, up_bias, groups, scale, dropout: see :func:`routed_update`.

    Returns:
        ``[rows, tokens, Dout]`` in the dtype of ``base``.
    """
    experts, d_out, r_group = up.shape
    rank = r_group * groups
    columns = stack_up(up, groups).view(d_out, experts, rank).transpose(0, 1)  # [E, Dout, r]
    expert = index.clamp(min=0)
    factor = (index >= 0).to(torch.float32) * scale
    if scales is not None:
        factor = factor * scales[expert]
    h = shrink(x, down.view(experts, rank, -1).to(x.dtype), index)
    if down_bias is not None:
        h = h + down_bias.view(experts, 1, rank)[expert].to(h.dtype)
    if dropout:
        h = F.dropout(h, dropout)
    z = h * factor[:, None, None].to(h.dtype)
    update: Tensor = expand_add(base, z.to(base.dtype), columns.to(base.dtype), index)
    if up_bias is not None:
        update = update + (factor[:, None] * up_bias[expert]).to(base.dtype).unsqueeze(1)
    return update
