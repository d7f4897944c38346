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
    blocks = up.view(experts, groups, d_out // groups, r_group).permute(1, 2, 0, 3)  # [g, Dout/g, E, r/g]
    if groups > 1:
        diagonal = torch.eye(groups, dtype=up.dtype, device=up.device)
        blocks = blocks.unsqueeze(3) * diagonal[:, None, None, :, None]  # [g, Dout/g, E, g, r/g]
    return blocks.reshape(d_out, -1)


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
) -> Tensor:
    """Add the routed low-rank update of ``x`` to ``base``.

    Args:
        base: ``[..., Dout]``.
        x: ``[..., Din]``, the same leading shape as ``base``.
        down: Ā, ``[r, Din]`` (shared by the experts) or ``[E·r, Din]``.
        up: ``[E, Dout, r / groups]``.
        down_bias: ā, ``[r]`` or ``[E·r]``.
        up_bias: ``[E, Dout]``.
        weights: w, broadcastable to ``[..., E]``; None weighs every expert with 1.
        groups: see :func:`stack_up`.
        scale: s.
        dropout: probability with which a hidden unit is dropped; 0 outside training.

    Returns:
        ``[..., Dout]`` in the dtype of ``base``. Parameters are cast to the dtype of ``x`` (masters stay fp32).
    """
    experts, _, r_group = up.shape
    rank = r_group * groups
    h = F.linear(x, down.to(x.dtype), None if down_bias is None else down_bias.to(x.dtype))
    if dropout:
        h = F.dropout(h, dropout)
    z = h.unflatten(-1, (-1, rank))  # [..., 1 or E, r]
    columns = stack_up(up, groups)
    if weights is None:
        z = z.expand(*z.shape[:-2], experts, rank)
        weights = z.new_ones(experts)
    else:
        weights = weights.to(x.dtype)
        z = z * weights.unsqueeze(-1)
    z = z.flatten(-2)
    if up_bias is not None:
        z = torch.cat([z, weights.expand(*z.shape[:-1], experts)], dim=-1)
        columns = torch.cat([columns, up_bias.t()], dim=-1)
    if scale != 1.0:
        z = z * scale
    update = torch.addmm(base.flatten(0, -2), z.flatten(0, -2).to(base.dtype), columns.to(base.dtype).t())
    return update.view_as(base)


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
    chosen = index >= 0
    expert = index.clamp(min=0)
    columns = stack_up(up, groups).view(d_out, experts, rank).transpose(0, 1)  # [E, Dout, r]
    factor = scale * chosen.to(torch.float32)
    if scales is not None:
        factor = factor * scales[expert]
    h = torch.bmm(x, down.view(experts, rank, -1)[expert].to(x.dtype).transpose(1, 2))
    if down_bias is not None:
        h = h + down_bias.view(experts, 1, rank)[expert].to(h.dtype)
    if dropout:
        h = F.dropout(h, dropout)
    h = h * factor[:, None, None].to(h.dtype)
    update = torch.baddbmm(base, h.to(base.dtype), columns[expert].to(base.dtype).transpose(1, 2))
    if up_bias is not None:
        update = update + (factor[:, None] * up_bias[expert]).to(base.dtype).unsqueeze(1)
    return update
