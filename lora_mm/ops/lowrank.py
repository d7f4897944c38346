"""The routed low-rank update, the one primitive under every adapter. Knows tensors; knows no model, method or modality.

    y[n] = base[n] + s · Σ_e w[n, e] · ( B_e (A_e x[n] + a_e) + b_e )

is computed as two thin products. Everything that depends on the routing happens between them, in rank space:

    h = x · Āᵀ + ā          project_down    Ā [K, Din]: one shared A (K = r) or the experts' stacked (K = E·r)
    z = s · w ⊙ h           route           [..., E·r]
    y = base + z · B̄ᵀ       project_up      B̄ [Dout, E·r]: groups are zero blocks, expert biases are extra columns

A loop over experts would pass E times over the activations; here each product reads them once.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.projections import project_down, project_up
from lora_mm.ops.residual import update_residual
from lora_mm.ops.update import Norm, Update


def stack_up(up: Tensor, groups: int = 1) -> Tensor:
    """Stack the experts' up-projections into one matrix, for one product.

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


def make_uniform_update(down: Tensor, up: Tensor, scale: float, kernels: Kernels = "auto") -> Update:
    """Make the update s · up · down, the same for every token.

    Args:
        down: ``[r, Din]``.
        up: ``[Dout, r]``.
        scale: s.
        kernels: how its operations run.
    """
    return Update(down, up, None, None, None, None, scale, experts=1, rank=len(down), kernels=kernels)


def make_update(
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
    kernels: Kernels = "auto",
) -> Update:
    """Make the update of ``x`` from an adapter's parameters, cast to the dtype of ``x`` (master weights stay fp32).

    A uniform update is not cast, because an NF4 weight adds it in fp32, before rounding.

    Args:
        x: ``[..., Din]``; with ``index`` ``[rows, tokens, Din]``.
        down: Ā, ``[r, Din]`` (shared by the experts) or ``[E·r, Din]``.
        up: ``[E, Dout, r / groups]``.
        down_bias: ā, ``[r]`` or ``[E·r]``.
        up_bias: ``[E, Dout]``.
        weights: w, broadcastable to ``[..., E]``; None for a weight of 1 for every expert. With ``index``, ``[E]``.
        index: ``[rows]``, the expert of each row, for experts with an A each; rows with a negative index get no update.
        groups: see :func:`stack_up`.
        scale: s.
        dropout: probability with which a hidden unit is dropped; 0 outside training.
        kernels: how its operations run.
    """
    experts, d_out, r_group = up.shape
    rank, dtype = r_group * groups, x.dtype
    is_routed = any(tensor is not None for tensor in (down_bias, up_bias, weights, index))
    if experts == groups == 1 and not (is_routed or dropout):
        return make_uniform_update(down, up[0], scale, kernels)
    down, columns = down.to(dtype), stack_up(up.to(dtype), groups)
    down_bias, up_bias, weights = (None if t is None else t.to(dtype) for t in (down_bias, up_bias, weights))
    if index is None:
        columns = columns if up_bias is None else torch.cat([columns, up_bias.t()], dim=-1)
    else:
        expert = index.clamp(min=0)
        down = down.view(experts, rank, -1)
        columns = columns.view(d_out, experts, rank).transpose(0, 1)
        columns = columns if up_bias is None else torch.cat([columns, up_bias.unsqueeze(-1)], dim=-1)
        down_bias = None if down_bias is None else down_bias.view(experts, 1, rank)[expert]
        weights = None if weights is None else weights[expert][:, None, None]
        experts = 1
    keep = F.dropout(x.new_ones(*x.shape[:-1], down.shape[-2]), dropout) if dropout else None
    return Update(down, columns, down_bias, weights, keep, index, scale, experts, rank, kernels)


def routed_update(
    base: Tensor, x: Tensor, down: Tensor, up: Tensor, *, norm: Norm | None = None, **options: Any
) -> Tensor:
    """Add the routed low-rank update of ``x`` to ``base``.

    Args:
        base: ``[..., Dout]``; ``x`` itself for an update of a layer's input, which saves one pass.
        x: ``[..., Din]``, with the leading dimensions of ``base``.
        down: see :func:`make_update`.
        up: see :func:`make_update`.
        norm: an RMSNorm to apply first, if ``base`` is ``x``: its output is updated and returned. Its weight gets no
            gradient.
        options: see :func:`make_update`.

    Returns:
        ``[..., Dout]`` in the dtype of ``base``.
    """
    update = make_update(x, down, up, **options)
    down, columns = update.down.to(x.dtype), update.columns.to(base.dtype)
    if base is x and update.index is None:
        rest: tuple[Any, ...] = update.tensors[2:] + update.settings
        return update_residual(x, Update(down, columns, *rest), norm)
    assert norm is None
    h = project_down(x, down, update.index, update.kernels)
    h = h if update.down_bias is None else h + update.down_bias
    updated: Tensor = project_up(base, update.route(h).to(base.dtype), columns, update.index, update.kernels)
    return updated
