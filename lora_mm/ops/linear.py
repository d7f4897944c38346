"""Frozen linear layers that read one input, each with a low-rank update, as one differentiable function.

    y_i = x W_iᵀ + b_i + s_i · (x A_iᵀ) B_iᵀ

Written out by hand, updates and gradients are added where the large products left theirs (``addmm_``), instead of each
making a tensor of its own to be added later: for q, k and v, dx is written once. Of an NF4 weight the update is merged
in the dequantisation where that pays (see :mod:`.nf4`). Kept for the backward: x, and h [tokens, r] of other weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops.nf4 import Packed, merged, merges


@dataclass(frozen=True)
class Frozen:
    """A frozen linear layer with an update: W [Dout, Din] or its NF4 form, b [Dout], A [r, Din], B [Dout, r], s."""

    weight: Tensor | Packed
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float


def adapted_linears(x: Tensor, layers: Sequence[Frozen]) -> tuple[Tensor, ...]:
    """What each of ``layers`` makes of ``x`` [..., Din]: ``[..., Dout_i]``, in the dtype of ``x``.

    A and B are cast to the dtype of ``x`` (masters stay fp32) and get gradients in their own; W and b get none.
    """
    trained = [tensor for layer in layers for tensor in (layer.down, layer.up)]
    with torch.autocast(x.device.type, enabled=False):
        outputs: tuple[Tensor, ...] = _Adapted.apply(x, tuple(layers), *trained)
    return outputs


def _weight(weight: Tensor | Packed, up: Tensor, down: Tensor, scale: float, x: Tensor) -> tuple[Tensor, bool]:
    """What ``x`` is multiplied by, and whether the update is in it."""
    if not isinstance(weight, Packed):
        return weight, False
    if merges(x):
        return merged(weight, up, down, scale, x.dtype), True
    return merged(weight, None, None, 1.0, x.dtype), False


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: tuple[Frozen, ...], *trained: Tensor) -> tuple[Tensor, ...]:
        rows, outputs, kept = x.reshape(-1, x.shape[-1]), [], []
        for layer in layers:
            weight, whole = _weight(layer.weight, layer.up, layer.down, layer.scale, x)
            y = F.linear(rows, weight, layer.bias)
            if not whole:
                h = rows @ layer.down.to(x.dtype).t()
                y.addmm_(h, layer.up.to(x.dtype).t(), alpha=layer.scale)
                kept.append(h)
            outputs.append(y.view(*x.shape[:-1], -1))
        ctx.save_for_backward(x, *trained, *kept)
        ctx.layers = [(layer.weight, layer.scale) for layer in layers]
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors  # once: checkpointing computes them again for each asking
        with torch.autocast(x.device.type, enabled=False):
            return _Adapted._backward(ctx, grads, x, rest)

    @staticmethod
    def _backward(ctx: Any, grads: tuple[Tensor | None, ...], x: Tensor, rest: list[Tensor]) -> tuple[Any, ...]:
        count = len(ctx.layers)
        trained, kept = rest[: 2 * count], iter(rest[2 * count :])
        rows = x.reshape(-1, x.shape[-1])
        dx: Tensor | None = None
        results: list[Tensor | None] = []
        for (frozen, scale), down, up, grad in zip(ctx.layers, trained[::2], trained[1::2], grads, strict=True):
            h = None if isinstance(frozen, Packed) and merges(x) else next(kept)
            if grad is None:
                results += [None, None]
                continue
            dy, a, b = grad.reshape(-1, grad.shape[-1]), down.to(x.dtype), up.to(x.dtype)
            h = rows @ a.t() if h is None else h
            g = (dy @ b).mul_(scale)
            results += [(g.t() @ rows).to(down.dtype), (dy.t() @ h).to(up.dtype).mul_(scale)]
            if ctx.needs_input_grad[0]:
                weight, whole = _weight(frozen, up, down, scale, x)
                dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
                if not whole:
                    dx.addmm_(g, a)
        return (None if dx is None else dx.view(x.shape), None, *results)
