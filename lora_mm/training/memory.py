"""Measures memory and work of a training step by running one without data. Knows no recipes."""

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
    """What one training step uses, besides the weights.

    Attributes:
        optimizer: bytes of AdamW's states.
        peak: peak bytes of everything else: activations, gradients, temporary results, the batch.
        flops: operations of its matrix products, forward and backward.
    """

    optimizer: int
    peak: int
    flops: int


class CannotEstimateError(LoraMMError):
    """The memory of a step cannot be estimated."""


def measure_step(model: Any, batch: Mapping[str, Tensor], *, gradient_checkpointing: bool) -> StepUsage:
    """Measure one step of ``model`` on ``batch``, taken as the Trainer takes it.

    Args:
        model: on ``meta`` (see :func:`~lora_mm.models.loading.load_base`), with its adapters.
        batch: model inputs and labels, with data.
        gradient_checkpointing: whether activations are recomputed in the backward.

    Raises:
        CannotEstimateError: the model reads values of its activations.
    """
    set_kernels(model, "torch")  # no kernel runs without data
    try:
        return _measure(model, batch, gradient_checkpointing)
    except (RuntimeError, TypeError, ValueError) as error:  # what an operation raises that needs data and has none
        raise CannotEstimateError(
            f"This base cannot run without its weights: {str(error).strip().splitlines()[0]}"
        ) from error


def _measure(model: Any, batch: Mapping[str, Tensor], gradient_checkpointing: bool) -> StepUsage:
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
        optimizer.step()  # the first step makes the states
        optimizer.zero_grad()
        states = usage.now
        loss = compute_answer_loss(model, dict(batch))
        if loss.requires_grad:  # False where only tower or connector train and the batch has no picture
            loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()
    return StepUsage(states, usage.peak - states, usage.flops)
