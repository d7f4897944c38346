"""Adds its update to an input, or to the RMSNorm of an input, as one operation with hand-derived gradients.

    y = n + z · B̄ᵀ, z = route(h), h = n · Āᵀ + ā      n = x, or RMSNorm(x) folded in: h = rstd · (x (γ∘Ā)ᵀ) + ā

Of tensors [tokens, width] only x is saved for the backward; z is recomputed from h. Knows no routing policy.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops import products
from lora_mm.ops.dispatch import import_launchers, use_triton
from lora_mm.ops.products import flat
from lora_mm.ops.projections import empty_like
from lora_mm.ops.registration import register_operation
from lora_mm.ops.update import UPDATE_SCHEMA, Norm, Update, get_sum_dtype


def update_residual(x: Tensor, update: Update, norm: Norm | None = None) -> Tensor:
    """Add its update to ``x``, or to the output of ``norm`` for ``x``.

    Args:
        x: ``[..., D]``.
        update: from D to D, not by row, in the dtype of ``x``.
        norm: an RMSNorm to apply to ``x`` first; None for none. Its weight gets no gradient.

    Returns:
        y ``[..., D]``.
    """
    weight, eps = (None, 0.0) if norm is None else norm
    y: Tensor = residual(x, weight, eps, *update.tensors, *update.settings)[0]
    return y


def _residual(x: Tensor, norm_weight: Tensor | None, eps: float, *fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    """y [..., D], h [..., K] and 1 / rms(x) [..., 1] (empty without a norm), from x [..., D]."""
    update, norm = Update(*fields), None if norm_weight is None else Norm(norm_weight, eps)
    if use_triton(update.kernels, "residual", x, update.columns.shape[1]):
        y, h, rstd = import_launchers().launch_residual(x, norm, update)
        return y, h, rstd
    n, rstd = (x, x.new_empty(0)) if norm is None else _normalize(x, norm)
    h = F.linear(n, update.down, update.down_bias)
    return torch.addmm(flat(n), flat(update.route(h)), update.columns.t()).view(x.shape), h, rstd


def _residual_fake(x: Tensor, norm_weight: Tensor | None, eps: float, *fields: Any) -> tuple[Tensor, ...]:
    rstd = x.new_empty(0) if norm_weight is None else x.new_empty(*x.shape[:-1], 1, dtype=get_sum_dtype(x))
    return empty_like(x), x.new_empty(*x.shape[:-1], Update(*fields).down.shape[0]), rstd


def _normalize(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """RMSNorm with Llama's roundings, and 1 / rms(x)."""
    wide = x.to(get_sum_dtype(x))
    rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    return norm.weight * (wide * rstd).to(x.dtype), rstd


def _residual_bwd(
    dy: Tensor, x: Tensor, h: Tensor, rstd: Tensor, norm_weight: Tensor | None, *fields: Any
) -> tuple[Tensor, ...]:
    """dx, dĀ, dB̄, dā and dw (empty where there are no weights)."""
    update = Update(*fields)
    z, columns = update.route(h), update.columns
    in_triton = use_triton(update.kernels, "residual", x, columns.shape[1])
    if in_triton:
        dx, dz = import_launchers().launch_residual_bwd(dy, x, h, rstd, norm_weight, update)
    else:
        dz = products.shrink(dy, columns.t(), None, update.kernels)
    dcolumns = products.outer(dy, z, None, 1, update.kernels).t().contiguous()
    dh, dweights = update.route_bwd(dz, h)
    if not in_triton:
        dx = torch.addmm(flat(dy), flat(dh), update.down).view(x.shape)
        dx = dx if norm_weight is None else _normalize_bwd(dx, x, rstd, norm_weight)
    ddown = products.outer(x, dh if norm_weight is None else (dh * rstd).to(x.dtype), None, 1, update.kernels)
    ddown = ddown if norm_weight is None else ddown * norm_weight
    return dx, ddown, dcolumns, flat(dh).sum(dim=0), dy.new_empty(0) if dweights is None else dweights


def _normalize_bwd(dn: Tensor, x: Tensor, rstd: Tensor, weight: Tensor) -> Tensor:
    """dx of RMSNorm: rstd · (γ dn − x · rstd² · mean(γ dn x))."""
    wide = x.to(rstd.dtype)
    u = dn.to(rstd.dtype) * weight
    share = (u * wide).mean(dim=-1, keepdim=True) * rstd.square()
    return u.addcmul_(wide, share, value=-1).mul_(rstd).to(x.dtype)


def _residual_bwd_fake(
    dy: Tensor, x: Tensor, h: Tensor, rstd: Tensor, norm_weight: Tensor | None, *fields: Any
) -> tuple[Tensor, ...]:
    update = Update(*fields)
    dweights = dy.new_empty(0) if update.weights is None else empty_like(update.weights)
    dbias = update.down.new_empty(update.down.shape[0])
    return empty_like(x), empty_like(update.down), empty_like(update.columns), dbias, dweights


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, norm_weight, _, *fields = inputs
    update = Update(*fields)
    _, h, rstd = output
    ctx.save_for_backward(x, h, rstd, norm_weight, *update.tensors)
    ctx.settings = update.settings
    ctx.has_bias, ctx.has_weights = update.down_bias is not None, update.weights is not None
    ctx.mark_non_differentiable(h, rstd)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 13
    dx, ddown, dcolumns, dbias, dweights = residual_bwd(dy.contiguous(), *ctx.saved_tensors, *ctx.settings)
    gradients = (ddown, dcolumns, dbias if ctx.has_bias else None, dweights if ctx.has_weights else None)
    return (dx, None, None, *gradients, *(None,) * 6)


residual_bwd = register_operation(
    "residual_bwd",
    f"(Tensor dy, Tensor x, Tensor h, Tensor rstd, Tensor? norm_weight, {UPDATE_SCHEMA}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _residual_bwd,
    _residual_bwd_fake,
)
residual = register_operation(
    "residual",
    f"(Tensor x, Tensor? norm_weight, float eps, {UPDATE_SCHEMA}) -> (Tensor, Tensor, Tensor)",
    _residual,
    _residual_fake,
    _backward,
    _setup_context,
)
