"""Measures memory and compute of a training step by running one on the ``meta`` device. Knows no recipes."""

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
        peak: peak bytes of activations, gradients, temporary results and the batch.
        flops: floating-point operations of its matrix products, forward and backward.
    """

    optimizer: int
    peak: int
    flops: int


class CannotEstimateError(LoraMMError):
    """The memory of a step cannot be estimated."""


def measure_step(model: Any, batch: Mapping[str, Tensor], *, gradient_checkpointing: bool) -> StepUsage:
    """Measure one step of ``model`` on ``batch``, as the Trainer runs it.

    Args:
        model: on ``meta`` (see :func:`~lora_mm.models.loading.load_base`), with its adapters.
        batch: model inputs and labels, with data.
        gradient_checkpointing: whether to recompute activations in the backward pass.

    Raises:
        CannotEstimateError: the model reads values of its activations.
    """
    set_kernels(model, "torch")  # Triton kernels need data
    try:
        return _measure(model, batch, gradient_checkpointing)
    except (RuntimeError, TypeError, ValueError) as error:  # raised by operations that need data
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
        optimizer.step()  # the first step creates the states
        optimizer.zero_grad()
        states = usage.now
        loss = compute_answer_loss(model, dict(batch))
        if loss.requires_grad:  # False if only tower or connector train and the batch has no picture
            loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()
    return StepUsage(states, usage.peak - states, usage.flops)
