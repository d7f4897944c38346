"""What makes the steps of several processes those of one: equal weights, and the mean of their gradients.

In place of DistributedDataParallel, which waits in every backward for a gradient of each tensor, and a batch without
pictures has none for the tower; of a batch where nothing that trains is on the path it waits for ever. Adapters are
small: one sum after the backward takes a moment.
"""

from collections.abc import Iterable

import torch
import torch.distributed
from torch import nn

from lora_mm import distributed


def broadcast_weights(model: nn.Module) -> None:
    """Give what trains in every process the first one's values."""
    if distributed.world_size() > 1:
        for parameter in _trained(model.parameters()):
            torch.distributed.broadcast(parameter.data, 0)


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes, and leave None what has none in any of them."""
    if distributed.world_size() == 1:
        return
    parameters = _trained(model.parameters())
    flat = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
    had = torch.tensor([p.grad is not None for p in parameters], dtype=flat[0].dtype, device=flat[0].device)
    total = torch.cat([*flat, had])
    torch.distributed.all_reduce(total)
    *means, had = (total / distributed.world_size()).split([*(len(one) for one in flat), len(parameters)])
    for parameter, mean, some in zip(parameters, means, had.tolist(), strict=True):
        if some:
            parameter.grad = mean.view_as(parameter)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
