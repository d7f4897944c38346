"""The training loss: cross-entropy on supervised tokens only. Knows batches; knows no adapters."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.models.forward import IGNORE_INDEX, compute_supervised_logits

LossWeight = Literal["token", "example"]
"""What counts equally in the loss: every supervised token, or every example, whatever the length of its answer."""


def compute_answer_loss(
    model: Any, batch: dict[str, Tensor], items: Tensor | int | None = None, weight: LossWeight = "token"
) -> Tensor:
    """Compute the cross-entropy of the supervised tokens of ``batch``: their mean, or the mean of the examples' means.

    Args:
        model: see :func:`~lora_mm.models.forward.compute_supervised_logits`.
        batch: model inputs and ``labels`` [batch, tokens].
        items: number to divide the sum by: :func:`count_items` of all accumulated batches; None for that of this batch.
        weight: what counts equally.

    Returns:
        A scalar in fp32.
    """
    logits, targets = compute_supervised_logits(model, batch)
    if weight == "token":
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    else:
        losses = F.cross_entropy(logits.mT, targets, ignore_index=IGNORE_INDEX, reduction="none")
        total = (losses.sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1).clamp(min=1)).sum()
    items = count_items(batch["labels"], weight) if items is None else items
    return total / torch.as_tensor(items, device=total.device).clamp(min=1)


def count_items(labels: Tensor, weight: LossWeight) -> Tensor:
    """Count what counts equally in the loss: supervised tokens, or examples that have any.

    Args:
        labels: labels [batch, tokens].
        weight: what counts equally.
    """
    supervised = labels[:, 1:] != IGNORE_INDEX  # nothing predicts the first token
    return (supervised if weight == "token" else supervised.any(dim=1)).sum()
