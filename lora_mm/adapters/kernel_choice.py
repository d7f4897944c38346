"""Stores the choice of kernels in an adapted model: layers pass it on with every update. Knows no kernels."""

from typing import Any

from torch import nn

from lora_mm.ops.kernel_choice import Kernels


class HasKernelChoice:
    """A module of an adapted model that holds the choice: the tuner, for layers made later, and every adapted layer."""

    kernels: Kernels = "auto"


def set_kernels(model: Any, kernels: Kernels) -> None:
    """Set how the adapters on ``model`` compute, also those that are added to it later.

    Args:
        model: an adapted model; other models in the process keep their own choice.
        kernels: how operations run.
    """
    assert isinstance(model, nn.Module)
    for module in model.modules():
        if isinstance(module, HasKernelChoice):
            module.kernels = kernels
