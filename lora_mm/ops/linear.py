"""Frozen linear layers that read one input, each with a low-rank update, as one differentiable function.

    y_i = x W_iᵀ + b_i + z_i B̄_iᵀ, z_i = s_i · w_i ⊙ (x Ā_iᵀ + ā_i)

Forward and backward are hand-written: updates and gradients are added in place to the results of the large products,
without a temporary tensor for each. For q, k and v, dx is written once. A uniform update of an NF4 weight is merged
into it during the dequantisation, if that is faster (see :mod:`.nf4`). Saved for the backward: x, and h [tokens, K] of
updates that are not merged. Knows no modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.ops import products
from lora_mm.ops.autocast import without_autocast
from lora_mm.ops.nf4 import dequantize, dequantize_and_merge, merging_pays
from lora_mm.ops.nf4_weight import NF4Weight
from lora_mm.ops.update import Update


@dataclass(frozen=True)
class FrozenLinear:
    """A frozen linear layer: W [Dout, Din] or its NF4 form, and b [Dout]."""

    weight: Tensor | NF4Weight
    bias: Tensor | None


def adapted_linears(x: Tensor, layers: Sequence[tuple[FrozenLinear, Update]]) -> tuple[Tensor, ...]:
    """Apply each of ``layers`` with its update to ``x``.

    Updates are cast to the dtype of ``x`` (master weights stay fp32), and their gradients back to that of the master
    weights. W and b get no gradient.

    Args:
        x: ``[..., Din]``.
        layers: frozen layers and their updates.

    Returns:
        ``[..., Dout_i]`` of each layer, in the dtype of ``x``.
    """
    tensors = [tensor for _, update in layers for tensor in update.tensors]
    with without_autocast(x):
        outputs: tuple[Tensor, ...] = _AdaptedLinears.apply(x, tuple(layers), *tensors)
    return outputs


def _get_weight(weight: Tensor | NF4Weight, update: Update, x: Tensor) -> tuple[Tensor, bool]:
    """The matrix to multiply ``x`` by, and whether the update is merged into it."""
    if not isinstance(weight, NF4Weight):
        return weight, False
    if update.is_uniform and merging_pays(x, update.kernels):
        return dequantize_and_merge(weight, update, x.dtype), True
    return dequantize(weight, x.dtype), False


def _compute_hidden(x: Tensor, update: Update) -> Tensor:
    """Project ``x`` into rank space: h [..., K]."""
    h = products.shrink(x, update.down.to(x.dtype), update.index, update.kernels)
    return h if update.down_bias is None else h + update.down_bias


_TENSOR_COUNT = 6
"""Number of tensors of an update."""


class _AdaptedLinears(torch.autograd.Function):
    """:func:`adapted_linears` with the updates' tensors as separate arguments, so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layers: tuple[tuple[FrozenLinear, Update], ...], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs, hidden = [], []
        for frozen, update in layers:
            weight, is_merged = _get_weight(frozen.weight, update, x)
            y, h = F.linear(products.flat(x), weight, frozen.bias).view(*x.shape[:-1], -1), None
            if not is_merged:
                h = _compute_hidden(x, update)
                columns = update.columns.to(x.dtype)
                y = products.expand(y, update.route(h), columns, update.index, update.kernels, in_place=True)
            outputs.append(y)
            hidden.append(h)
        ctx.save_for_backward(x, *hidden, *tensors)
        ctx.layers = [(frozen.weight, update.settings) for frozen, update in layers]
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors  # read once: under checkpointing each access computes them again
        with without_autocast(x):
            return _AdaptedLinears._backward(ctx, grads, x, saved)

    @staticmethod
    def _backward(ctx: Any, grads: tuple[Tensor | None, ...], x: Tensor, saved: list[Any]) -> tuple[Any, ...]:
        hidden, tensors = saved[: len(grads)], iter(saved[len(grads) :])
        dx: Tensor | None = None
        results: list[Tensor | None] = []
        for (frozen, settings), h, dy in zip(ctx.layers, hidden, grads, strict=True):
            update = Update(*(next(tensors) for _ in range(_TENSOR_COUNT)), *settings)
            if dy is None:
                results += [None] * _TENSOR_COUNT
                continue
            dh, gradients = _update_bwd(x, dy, h, update)
            results += gradients
            if ctx.needs_input_grad[0]:
                weight, is_merged = _get_weight(frozen, update, x)
                rows = products.flat(dy)
                dx = rows @ weight if dx is None else dx.addmm_(rows, weight)
                if not is_merged:
                    down = update.down.to(x.dtype).transpose(-1, -2)
                    products.expand(dx.view(x.shape), dh, down, update.index, update.kernels, in_place=True)
        return (None if dx is None else dx.view(x.shape), None, *results)


def _update_bwd(x: Tensor, dy: Tensor, h: Tensor | None, update: Update) -> tuple[Tensor, list[Tensor | None]]:
    """dh [..., K], and the gradients of the update's tensors; ``h`` is recomputed if it was not saved."""
    h, columns = _compute_hidden(x, update) if h is None else h, update.columns.to(x.dtype)
    index, kernels = update.index, update.kernels
    dz = products.shrink(dy, columns.transpose(-1, -2), index, kernels)
    dcolumns = products.outer(dy, update.route(h), index, len(columns), kernels).transpose(-1, -2)
    dh, dweights = update.route_bwd(dz, h)
    ddown = products.outer(x, dh, index, len(columns), kernels)
    dbias = None if update.down_bias is None else dh.sum_to_size(update.down_bias.shape)
    return dh, [ddown.to(update.down.dtype), dcolumns.to(update.columns.dtype), dbias, dweights, None, None]
