"""The two projections of an update, into rank space and out of it, with gradients. Knows no routing.

    h = x · Āᵀ                 project_down      Ā [K, Din]
    y = base + z · B̄ᵀ          project_up        B̄ [Dout, C]

Both also work by row (see :mod:`.products`). Sums over tokens have a fixed order, so gradients are deterministic.
"""

from typing import Any

import torch
from torch import Tensor

from lora_mm.ops import products
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.registration import register_operation


def _down_fake(x: Tensor, down: Tensor, index: Tensor | None, kernels: Kernels) -> Tensor:
    return x.new_empty(*x.shape[:-1], down.shape[-2])


def _down_bwd(g: Tensor, x: Tensor, down: Tensor, index: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """dx [..., Din] and dĀ, from g [..., K]."""
    dx = products.expand(None, g, down.transpose(-1, -2), index, kernels)
    return dx, products.outer(x, g, index, len(down), kernels)


def _down_bwd_fake(g: Tensor, x: Tensor, down: Tensor, index: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
    return empty_like(x), empty_like(down)


def _down_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kernels = inputs
    ctx.save_for_backward(*tensors)


def _down_backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
    dx, ddown = project_down_bwd(g.contiguous(), *ctx.saved_tensors, ctx.kernels)
    return dx, ddown, None, None


def _up(base: Tensor, z: Tensor, columns: Tensor, index: Tensor | None, kernels: Kernels) -> Tensor:
    """See ``products.expand``."""
    return products.expand(base, z, columns, index, kernels)


def _up_fake(base: Tensor, z: Tensor, columns: Tensor, index: Tensor | None, kernels: Kernels) -> Tensor:
    return empty_like(base)


def _up_bwd(dy: Tensor, z: Tensor, columns: Tensor, index: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """dz [..., C] and dB̄, from dy [..., Dout]."""
    dz = products.shrink(dy, columns.transpose(-1, -2), index, kernels)
    return dz, products.outer(dy, z, index, len(columns), kernels).transpose(-1, -2).contiguous()


def _up_bwd_fake(
    dy: Tensor, z: Tensor, columns: Tensor, index: Tensor | None, kernels: Kernels
) -> tuple[Tensor, Tensor]:
    return empty_like(z), empty_like(columns)


def _up_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *tensors, ctx.kernels = inputs
    ctx.save_for_backward(*tensors)


def _up_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    dy = dy.contiguous()
    dz, dcolumns = project_up_bwd(dy, *ctx.saved_tensors, ctx.kernels)
    return dy, dz, dcolumns, None, None


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised contiguous tensor with the shape and dtype of ``x``."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


project_down_bwd = register_operation(
    "project_down_bwd",
    "(Tensor g, Tensor x, Tensor down, Tensor? index, str kernels) -> (Tensor, Tensor)",
    _down_bwd,
    _down_bwd_fake,
)
project_down = register_operation(
    "project_down",
    "(Tensor x, Tensor down, Tensor? index, str kernels) -> Tensor",
    products.shrink,
    _down_fake,
    _down_backward,
    _down_setup,
)
project_up_bwd = register_operation(
    "project_up_bwd",
    "(Tensor dy, Tensor z, Tensor columns, Tensor? index, str kernels) -> (Tensor, Tensor)",
    _up_bwd,
    _up_bwd_fake,
)
project_up = register_operation(
    "project_up",
    "(Tensor base, Tensor z, Tensor columns, Tensor? index, str kernels) -> Tensor",
    _up,
    _up_fake,
    _up_backward,
    _up_setup,
)
