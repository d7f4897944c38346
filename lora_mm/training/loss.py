"""The training loss: cross-entropy on supervised tokens only. Knows batches; knows no adapters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.models.forward import IGNORE_INDEX, compute_supervised_logits


def compute_answer_loss(model: Any, batch: dict[str, Tensor], items: Tensor | int | None = None) -> Tensor:
    """Compute the mean cross-entropy of the supervised tokens of ``batch``.

    Args:
        model: see :func:`~lora_mm.models.forward.compute_supervised_logits`.
        batch: model inputs and ``labels`` [batch, tokens].
        items: number to divide the sum by: the supervised tokens of all accumulated batches; None for those of this
            batch.

    Returns:
        A scalar in fp32.
    """
    logits, targets = compute_supervised_logits(model, batch)
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    count = (targets != IGNORE_INDEX).sum() if items is None else torch.as_tensor(items, device=total.device)
    return total / count.clamp(min=1)
