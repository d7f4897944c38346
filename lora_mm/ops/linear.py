"""Frozen linear layers that read one input, each with a low-rank update, as one differentiable function.

    y_i = x W_iᵀ + b_i + z_i B̄_iᵀ, z_i = s_i · w_i ⊙ (x Ā_iᵀ + ā_i)

Written out by hand, updates and gradients are added where the large products left theirs, instead of each making a
tensor of its own to be added later: for q, k and v, dx is written once. Of an NF4 weight an update that all tokens
share is merged in the dequantisation where that pays (see :mod:`.nf4`). Kept for the backward: x, and h [tokens, K] of
updates that are not merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops import products
from lora_mm.ops.autocast import without_autocast
from lora_mm.ops.lowrank import Update
from lora_mm.ops.nf4 import Packed, merged, merges
from lora_mm.ops.primitive import route_bwd


@dataclass(frozen=True)
class Frozen:
    """A frozen linear layer: W [Dout, Din] or its NF4 form, and b [Dout]."""

    weight: Tensor | Packed
    bias: Tensor | None


def adapted_linears(x: Tensor, layers: Sequence[tuple[Frozen, Update]]) -> tuple[Tensor, ...]:
    """What each of ``layers`` with its update makes of ``x`` [..., Din]: ``[..., Dout_i]``, in the dtype of ``x``.

    Updates are cast to the dtype of ``x`` (masters stay fp32) and get gradients in their own; W and b get none.
    """
    tensors = [tensor for _, update in layers for tensor in _tensors(update)]
    with without_autocast(x):
        outputs: tuple[Tensor, ...] = _Adapted.apply(x, tuple(layers), *tensors)
    return outputs


def _tensors(update: Update) -> tuple[Tensor | None, ...]:
    """In the order in which an update is made of them."""
    return (update.down, update.columns, update.down_bias, update.weights, update.keep, update.index)


def _weight(weight: Tensor | Packed, update: Update, x: Tensor) -> tuple[Tensor, bool]:
    """What ``x`` is multiplied by, and whether the update is in it."""
    if not isinstance(weight, Packed):
        return weight, False
    if update.uniform and merges(x):
        return merged(weight, update.columns, update.down, update.scale, x.dtype), True
    return merged(weight, None, None, 1.0, x.dtype), False


def _hidden(x: Tensor, update: Update) -> Tensor:
    """h [..., K]."""
    h = products.shrink(x, update.down.to(x.dtype), update.index)
    return h if update.down_bias is None else h + update.down_bias


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layers: tuple[tuple[Frozen, Update], ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs, kept = [], []
        for frozen, update in layers:
            weight, whole = _weight(frozen.weight, update, x)
            y, h = F.linear(products.flat(x), weight, frozen.bias).view(*x.shape[:-1], -1), None
            if not whole:
                h = _hidden(x, update)
                y = products.expand(y, update.route(h), update.columns.to(x.dtype), update.index, into=True)
            outputs.append(y)
            kept.append(h)
        ctx.save_for_backward(x, *kept, *tensors)
        ctx.layers = [(frozen.weight, (update.scale, update.experts, update.rank)) for frozen, update in layers]
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors  # once: checkpointing computes them again for each asking
        with without_autocast(x):
            return _Adapted._backward(ctx, grads, x, saved)

    @staticmethod
    def _backward(ctx: Any, grads: tuple[Tensor | None, ...], x: Tensor, saved: list[Any]) -> tuple[Any, ...]:
        kept, tensors = saved[: len(grads)], iter(saved[len(grads) :])
        dx: Tensor | None = None
        results: list[Tensor | None] = []
        for (frozen, numbers), h, dy in zip(ctx.layers, kept, grads, strict=True):
            update = Update(*(next(tensors) for _ in range(6)), *numbers)
            if dy is None:
                results += [None] * 6
                continue
            dh, gradients = _update_bwd(x, dy, h, update)
            results += gradients
            if ctx.needs_input_grad[0]:
                weight, whole = _weight(frozen, update, x)
                rows = products.flat(dy)
                dx = rows @ weight if dx is None else dx.addmm_(rows, weight)
                if not whole:
                    down = update.down.to(x.dtype).transpose(-1, -2)
                    products.expand(dx.view(x.shape), dh, down, update.index, into=True)
        return (None if dx is None else dx.view(x.shape), None, *results)


def _update_bwd(x: Tensor, dy: Tensor, h: Tensor | None, update: Update) -> tuple[Tensor, list[Tensor | None]]:
    """dh [..., K], and the gradients of the update's tensors; ``h`` is computed again where it was not kept."""
    h, columns, index = _hidden(x, update) if h is None else h, update.columns.to(x.dtype), update.index
    dz = products.shrink(dy, columns.transpose(-1, -2), index)
    dcolumns = products.outer(dy, update.route(h), index, len(columns)).transpose(-1, -2)
    dh, dweights = route_bwd(dz, h, update.weights, update.keep, update.scale, update.experts, update.rank)
    ddown = products.outer(x, dh, index, len(columns))
    dbias = None if update.down_bias is None else dh.sum_to_size(update.down_bias.shape)
    return dh, [ddown.to(update.down.dtype), dcolumns.to(update.columns.dtype), dbias, dweights, None, None]
