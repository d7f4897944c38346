"""The choice of kernels on an adapted model: its layers hold it and pass it with every update. Knows no kernels."""

from typing import Any

from torch import nn

from lora_mm.ops.kernel_choice import Kernels


class HasKernelChoice:
    """A module of an adapted model that holds the choice: the tuner, for layers made later, and every adapted layer."""

    kernels: Kernels = "auto"


def set_kernels(model: Any, kernels: Kernels) -> None:
    """Have the adapters on ``model`` compute by ``kernels``, also those that are added to it later.

    Args:
        model: an adapted model; other models in the process keep their own choice.
        kernels: the form in which operations run.
    """
    assert isinstance(model, nn.Module)
    for module in model.modules():
        if isinstance(module, HasKernelChoice):
            module.kernels = kernels
