"""Batches through a model: where they go, and logits for supervised tokens only. Knows no adapters."""

from typing import Any

from torch import Tensor

IGNORE_INDEX = -100
"""Label of a token that carries no loss, as everywhere in transformers."""


def move_batch(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """``batch`` on the device of ``model``, its pictures in the model's dtype."""
    weight = next(model.parameters())
    dtype = getattr(model, "dtype", weight.dtype)
    return {
        name: value.to(weight.device, dtype if value.is_floating_point() else None) for name, value in batch.items()
    }


def compute_supervised_logits(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and targets where some row of ``batch`` has a supervised token to predict.

    Only those positions go through the output head: for a prompt of 700 tokens and an answer of 8, 1 % of them.

    Args:
        model: a transformers model whose forward takes ``logits_to_keep``.
        batch: model inputs and ``labels`` [batch, tokens].

    Returns:
        Logits [batch, P, vocabulary] in fp32, and targets [batch, P], :data:`IGNORE_INDEX` where a row has none.
    """
    inputs = move_batch(model, batch)
    targets = inputs.pop("labels")[:, 1:]
    positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)  # of the tokens that predict
    logits: Tensor = model(**inputs, logits_to_keep=positions, use_cache=False).logits
    return logits.float(), targets[:, positions]
