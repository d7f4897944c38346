"""The loss on supervised tokens only, without logits for the rest. Knows batches; knows no adapters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_mm.data.collate import IGNORED
from lora_mm.models.loading import place


def answer_loss(model: Any, batch: dict[str, Tensor], items: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy of the supervised tokens of ``batch``.

    Only positions that predict a supervised token in some row go through the output head: for a prompt of 700 tokens
    and an answer of 8, that is 1 % of the logits.

    Args:
        model: a transformers model whose forward takes ``logits_to_keep``.
        batch: model inputs and ``labels`` [batch, tokens].
        items: what to divide the sum by where gradients of several batches are accumulated; by default the own count.

    Returns:
        A scalar, in fp32.
    """
    inputs = place(model, {name: value for name, value in batch.items() if name != "labels"})
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)  # [P], of the tokens that predict
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits  # [batch, P, vocabulary]
    targets = targets[:, positions].flatten()
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="sum")
    count = (targets != IGNORED).sum() if items is None else torch.as_tensor(items, device=total.device)
    return total / count.clamp(min=1)
