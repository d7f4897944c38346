"""Runs batches through a model: moves them to its device, computes logits of supervised tokens. Knows no adapters."""

from typing import Any

from torch import Tensor

IGNORE_INDEX = -100
"""Label of a token without loss, as in transformers."""


def move_batch(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move a batch to the device of a model, and its floating-point tensors to the model's dtype.

    Args:
        model: a transformers model, with or without adapters.
        batch: model inputs.
    """
    weight = next(model.parameters())
    dtype = getattr(model, "dtype", weight.dtype)
    return {
        name: value.to(weight.device, dtype if value.is_floating_point() else None) for name, value in batch.items()
    }


def compute_supervised_logits(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute logits and targets at the positions where a row of ``batch`` has a supervised token to predict.

    Only these positions go through the output head: 1 % of a prompt of 700 tokens with an answer of 8.

    Args:
        model: a transformers model.
        batch: model inputs and ``labels`` [batch, tokens].

    Returns:
        Logits [batch, P, vocabulary] in fp32, and targets [batch, P], :data:`IGNORE_INDEX` where a row has none.
    """
    inputs = move_batch(model, batch)
    targets = inputs.pop("labels")[:, 1:]
    positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)  # of the tokens before the supervised ones
    logits: Tensor = model(**inputs, logits_to_keep=positions, use_cache=False).logits
    if logits.shape[1] != len(positions):  # some families compute all of them
        logits = logits[:, positions]
    return logits.float(), targets[:, positions]
