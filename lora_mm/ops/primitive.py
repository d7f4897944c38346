"""The operations under every adapter: forward, hand-derived backward, and their registration. Knows no routing policy.

    h = x · Āᵀ + ā                     shrink      Ā [K, Din]
    y = base + z · B̄ᵀ                  expand_add  B̄ [Dout, C]
    y = n + z(h, w) · B̄ᵀ, h = n·Āᵀ + ā   residual    n = x, or RMSNorm(x) folded in: h = rstd · (x (γ∘Ā)ᵀ) + ā

Each is an op of ``torch.library`` (``lora_mm::…``), so that ``torch.compile`` takes it whole. Sums over tokens are
matrix products, or Triton's in a fixed order: gradients are deterministic. Of [tokens, width] only x is kept for the
backward; z is computed again from h.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops import products
from lora_mm.ops.autocast import without_autocast
from lora_mm.ops.dispatch import launches, use_triton
from lora_mm.ops.products import flat


def _registered(
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    keep: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """``forward`` as an op of torch.library and, where there is a ``backward``, differentiable.

    Outside of ``torch.compile`` the same functions run as a ``torch.autograd.Function``: the dispatcher's way through
    Python is long for a small adapter. That function's forward sets up its context itself, as ``setup_context`` has
    ``apply`` bind the arguments at every call.
    """
    name = forward.__name__.removeprefix("_")
    op = torch.library.custom_op(f"lora_mm::{name}", forward, mutates_args=())
    op.register_fake(fake)
    eager = forward
    if backward is not None:
        op.register_autograd(backward, setup_context=keep)
        assert keep is not None
        set_up = keep

        def kept(ctx: Any, *args: Any) -> Any:
            output = forward(*args)
            set_up(ctx, args, output)
            return output

        parts = {"forward": staticmethod(kept), "backward": staticmethod(backward)}
        function: Any = type(name, (torch.autograd.Function,), parts)
        eager = function.apply

    def call(*args: Any) -> Any:
        first: Tensor = args[0]
        run = op if torch.compiler.is_compiling() or type(first) is not Tensor else eager
        run = forward if run is eager and not torch.is_grad_enabled() else run
        with without_autocast(first):
            return run(*args)

    call.__doc__ = forward.__doc__
    return call


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


# --- shrink and expand -----------------------------------------------------------------------------------------------


def _shrink_fake(x: Tensor, down: Tensor, index: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], down.shape[-2])


def _shrink_bwd(g: Tensor, x: Tensor, down: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """dx [..., Din] and dĀ of g [..., K]."""
    dx = products.expand(None, g, down.transpose(-1, -2), index)
    return dx, products.outer(x, g, index, len(down))


def _shrink_bwd_fake(g: Tensor, x: Tensor, down: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    return _like(x), _like(down)


def _shrink_keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _shrink_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
    dx, ddown = shrink_bwd(g.contiguous(), *ctx.saved_tensors)
    return dx, ddown, None


def _expand_add(base: Tensor, z: Tensor, columns: Tensor, index: Tensor | None) -> Tensor:
    """See ``products.expand``."""
    return products.expand(base, z, columns, index)


def _expand_add_fake(base: Tensor, z: Tensor, columns: Tensor, index: Tensor | None) -> Tensor:
    return _like(base)


def _expand_bwd(dy: Tensor, z: Tensor, columns: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """dz [..., C] and dB̄ of dy [..., Dout]."""
    dz = products.shrink(dy, columns.transpose(-1, -2), index)
    return dz, products.outer(dy, z, index, len(columns)).transpose(-1, -2).contiguous()


def _expand_bwd_fake(dy: Tensor, z: Tensor, columns: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    return _like(z), _like(columns)


def _expand_keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _expand_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    dy = dy.contiguous()
    dz, dcolumns = expand_bwd(dy, *ctx.saved_tensors)
    return dy, dz, dcolumns, None


# --- routing in rank space -------------------------------------------------------------------------------------------


def route(
    h: Tensor, weights: Tensor | None, keep: Tensor | None, scale: float, experts: int, rank: int, biased: bool
) -> Tensor:
    """z [..., E·r (+ E)] = s · w ⊙ keep ⊙ h and, behind it, s · w: one column for each expert's bias.

    Args:
        h: ``[..., r]``, shared by the experts, or ``[..., E·r]``.
        weights: broadcastable to ``[..., E]``; None for ones.
        keep: ``[..., K]``, what dropout leaves of h, divided by its chance.
        biased: whether the columns of the biases follow.
    """
    z = (h if keep is None else h * keep).unflatten(-1, (-1, rank))
    if weights is None and (biased or z.shape[-2] != experts):
        weights = h.new_ones(experts)
    if weights is not None:
        z = z * weights.unsqueeze(-1)
    z = z.flatten(-2)
    if biased:
        assert weights is not None
        z = torch.cat([z, weights.expand(*z.shape[:-1], experts)], dim=-1)
    return z if scale == 1.0 else z * scale


def route_bwd(
    dz: Tensor, h: Tensor, weights: Tensor | None, keep: Tensor | None, scale: float, experts: int, rank: int
) -> tuple[Tensor, Tensor | None]:
    """dh and dw of :func:`route`."""
    dz = dz if scale == 1.0 else dz * scale
    width = experts * rank
    core = dz[..., :width].unflatten(-1, (experts, rank))
    dweights = None
    if weights is not None:
        own = (h if keep is None else h * keep).unflatten(-1, (-1, rank))
        per_expert = (core * own).sum(dim=-1, dtype=_wide(h))  # over tokens too: terms of both signs, which cancel
        if dz.shape[-1] > width:
            per_expert = per_expert + dz[..., width:]
        dweights = per_expert.sum_to_size(weights.shape).to(weights.dtype)
        core = core * weights.unsqueeze(-1)
    dh = core.sum(dim=-2) if h.shape[-1] != width else core.flatten(-2)
    return (dh if keep is None else dh * keep), dweights


# --- the fused residual ----------------------------------------------------------------------------------------------


def _residual(
    x: Tensor,
    norm: Tensor | None,
    eps: float,
    down: Tensor,
    down_bias: Tensor | None,
    columns: Tensor,
    weights: Tensor | None,
    keep: Tensor | None,
    scale: float,
    experts: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [..., D], h [..., K] and 1 / rms(x) [..., 1] (empty without ``norm``) of x [..., D].

    Args:
        norm: γ [D] of the RMSNorm whose input x is and whose output is updated; None where x is that output.
        eps: of the norm.
        down: Ā [K, D], K = r or E·r.
        columns: B̄ [D, E·r] or, with the experts' biases, [D, E·r + E].
        weights, keep, scale, experts: see :func:`route`.
        rank: r.
    """
    if use_triton("residual", x, columns.shape[1]):
        return launches().residual(x, norm, eps, down, down_bias, columns, weights, keep, scale, experts, rank)
    n, rstd = (x, x.new_empty(0)) if norm is None else _normed(x, norm, eps)
    h = torch.nn.functional.linear(n, down, down_bias)
    z = route(h, weights, keep, scale, experts, rank, columns.shape[1] > experts * rank)
    return torch.addmm(flat(n), flat(z), columns.t()).view(x.shape), h, rstd


def _residual_fake(x: Tensor, norm: Tensor | None, eps: float, down: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    y = _like(x)
    rstd = x.new_empty(0) if norm is None else x.new_empty(*x.shape[:-1], 1, dtype=_wide(x))
    return y, x.new_empty(*x.shape[:-1], down.shape[0]), rstd


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def _normed(x: Tensor, norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm as Llama's writes it, roundings and all; and 1 / rms(x)."""
    wide = x.to(_wide(x))
    rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return norm * (wide * rstd).to(x.dtype), rstd


def _residual_bwd(
    dy: Tensor,
    x: Tensor,
    h: Tensor,
    rstd: Tensor,
    norm: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    columns: Tensor,
    weights: Tensor | None,
    keep: Tensor | None,
    scale: float,
    experts: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dx, dĀ, dā, dB̄ and dw (empty where there are no weights)."""
    z = route(h, weights, keep, scale, experts, rank, columns.shape[1] > experts * rank)
    triton = use_triton("residual", x, columns.shape[1])
    if triton:
        dx, dz = launches().residual_bwd(
            dy, x, h, rstd, norm, down, down_bias, columns, weights, keep, scale, experts, rank
        )
    else:
        dz = products.shrink(dy, columns.t(), None)
    dcolumns = products.outer(dy, z, None, 1).t().contiguous()
    dh, dweights = route_bwd(dz, h, weights, keep, scale, experts, rank)
    if not triton:
        dx = torch.addmm(flat(dy), flat(dh), down).view(x.shape)
        dx = dx if norm is None else _normed_bwd(dx, x, rstd, norm)
    ddown = products.outer(x, dh if norm is None else (dh * rstd).to(x.dtype), None, 1)
    ddown = ddown if norm is None else ddown * norm
    none = dy.new_empty(0)
    return dx, ddown, flat(dh).sum(dim=0), dcolumns, none if dweights is None else dweights


def _normed_bwd(dn: Tensor, x: Tensor, rstd: Tensor, norm: Tensor) -> Tensor:
    """dx of RMSNorm: rstd · (γ dn − x · rstd² · mean(γ dn x))."""
    wide = x.to(rstd.dtype)
    u = dn.to(rstd.dtype) * norm
    share = (u * wide).mean(dim=-1, keepdim=True) * rstd.square()
    return u.addcmul_(wide, share, value=-1).mul_(rstd).to(x.dtype)


def _residual_bwd_fake(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, down, _, columns, weights, *_ = rest
    dx = _like(x)
    dweights = dy.new_empty(0) if weights is None else _like(weights)
    return dx, _like(down), down.new_empty(down.shape[0]), _like(columns), dweights


def _residual_keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, norm, _, down, down_bias, columns, weights, keep, *numbers = inputs
    _, h, rstd = output
    ctx.save_for_backward(x, h, rstd, norm, down, down_bias, columns, weights, keep)
    ctx.numbers, ctx.biased, ctx.weighted = numbers, down_bias is not None, weights is not None
    ctx.mark_non_differentiable(h, rstd)
    ctx.set_materialize_grads(False)


def _residual_backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 11
    grads = residual_bwd(dy.contiguous(), *ctx.saved_tensors, *ctx.numbers)
    dx, ddown, dbias, dcolumns, dweights = grads
    dbias, dweights = dbias if ctx.biased else None, dweights if ctx.weighted else None
    return dx, None, None, ddown, dbias, dcolumns, dweights, None, None, None, None


shrink_bwd = _registered(_shrink_bwd, _shrink_bwd_fake)
shrink = _registered(products.shrink, _shrink_fake, _shrink_backward, _shrink_keep)
expand_bwd = _registered(_expand_bwd, _expand_bwd_fake)
expand_add = _registered(_expand_add, _expand_add_fake, _expand_backward, _expand_keep)
residual_bwd = _registered(_residual_bwd, _residual_bwd_fake)
residual = _registered(_residual, _residual_fake, _residual_backward, _residual_keep)
