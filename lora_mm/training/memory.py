"""What memory a training step takes, and how much it computes, found by taking one without data. Knows no recipes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.errors import LoraMMError
from lora_mm.models.weightless import count_usage
from lora_mm.training.loss import compute_answer_loss


@dataclass(frozen=True)
class StepUsage:
    """What one training step uses beside the weights.

    Attributes:
        optimizer: bytes of AdamW's states.
        peak: most bytes of everything else at once: activations, gradients, temporary results, the batch.
        flops: operations of its products, forward and backward.
    """

    optimizer: int
    peak: int
    flops: int


class CannotEstimateError(LoraMMError):
    """What a step uses cannot be told beforehand."""


def measure_step(model: Any, batch: Mapping[str, Tensor], *, gradient_checkpointing: bool) -> StepUsage:
    """What a step of ``model`` on ``batch`` would use, as the Trainer takes it.

    Args:
        model: on ``meta`` (see :func:`~lora_mm.models.loading.load_base`), with its adapters.
        batch: model inputs and labels, real.

    Raises:
        Unforeseen: for a model that asks its activations for data.
    """
    set_kernels(model, "torch")  # no kernel runs without data
    try:
        return _use(model, batch, gradient_checkpointing)
    except (RuntimeError, TypeError, ValueError) as error:  # whatever an operation that needs data raises without
        raise CannotEstimateError(
            f"This base cannot run without its weights: {str(error).strip().splitlines()[0]}"
        ) from error


def _use(model: Any, batch: Mapping[str, Tensor], gradient_checkpointing: bool) -> StepUsage:
    model.train()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with count_usage() as usage:
        optimizer = torch.optim.AdamW(trained)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # a first one, which leaves its states
        optimizer.zero_grad()
        states = usage.now
        loss = compute_answer_loss(model, dict(batch))
        if loss.requires_grad:  # not of text alone, where only tower or connector train
            loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()
    return StepUsage(states, usage.peak - states, usage.flops)
