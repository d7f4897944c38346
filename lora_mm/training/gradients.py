"""Keeps weights equal and averages gradients over all ranks, so that processes train as one. Knows no recipe.

This replaces DistributedDataParallel, which in every backward pass waits for a gradient of each tensor: after a batch
without pictures the vision tower has none, and DDP waits forever. Adapters are small, so one all-reduce after the
backward pass takes little time.
"""

from collections.abc import Iterable

import torch
import torch.distributed
from torch import nn

from lora_mm import distributed


def broadcast_weights(model: nn.Module) -> None:
    """Copy the trainable parameters of rank 0 to all ranks."""
    if distributed.world_size() > 1:
        for parameter in _select_trainable(model.parameters()):
            torch.distributed.broadcast(parameter.data, 0)


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over all ranks; a tensor without a gradient on any rank keeps None."""
    if distributed.world_size() == 1:
        return
    parameters = _select_trainable(model.parameters())
    flat = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
    present = torch.tensor([p.grad is not None for p in parameters], dtype=flat[0].dtype, device=flat[0].device)
    total = torch.cat([*flat, present])
    torch.distributed.all_reduce(total)
    sizes = [*(len(gradient) for gradient in flat), len(parameters)]
    *means, present = (total / distributed.world_size()).split(sizes)
    for parameter, mean, share in zip(parameters, means, present.tolist(), strict=True):
        if share > 0:
            parameter.grad = mean.view_as(parameter)


def _select_trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
