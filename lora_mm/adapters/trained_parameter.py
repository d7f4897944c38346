"""A bare parameter of the base that an adapter trains: BLIP-2's query tokens, LLaVA-NeXT's newline. Knows no placement.

PEFT's ``modules_to_save`` copies modules only. Here the adapter's copy stands in the instance's dictionary, where an
attribute is looked up before the module's own parameters, so every use of the parameter finds it.
"""

from typing import Any, Self

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lora_mm.adapters.weights import AdapterWeight, AdapterWeights


class TrainedParameter(nn.Module, BaseTunerLayer):
    """The adapters' copies of one parameter, in fp32: ``routed_parameter[n]`` weight, of the parameter's shape.

    Args:
        owner: the module that holds the parameter.
        name: its name there.
    """

    adapter_layer_names = ("routed_parameter",)

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.routed_parameter = AdapterWeights()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.name = name
        self._owner = [owner]  # in a list, so that the owner is not a child of its own child

    def add(self, adapter_name: str) -> None:
        """Add a copy of the base's parameter for one adapter."""
        original = self._owner[0]._parameters[self.name]
        assert original is not None
        self.routed_parameter[adapter_name] = AdapterWeight(original.detach().float().clone())
        self.set_adapter(self.active_adapters)

    def set_adapter(self, adapter_names: Any, inference_mode: bool = False) -> None:
        """Activate adapters; the copy of the last one that has one is used."""
        super().set_adapter(adapter_names, inference_mode)
        self._set_attribute()

    def enable_adapters(self, enabled: bool) -> None:
        """Use the adapter's copy, or the base's own parameter."""
        super().enable_adapters(enabled)
        self._set_attribute()

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove the copy of one adapter."""
        super().delete_adapter(adapter_name)
        self._set_attribute()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or cast, which can make other objects of the parameters."""
        super()._apply(fn, recurse)
        self._set_attribute()
        return self

    def _set_attribute(self) -> None:
        used = [name for name in self.active_adapters if name in self.routed_parameter]
        attributes = self._owner[0].__dict__
        attributes.pop(self.name, None)
        if used and not self.disable_adapters:
            attributes[self.name] = self.routed_parameter[used[-1]].weight


def train_parameter(model: nn.Module, path: str, adapter_name: str) -> str:
    """Add an adapter's copy of a bare parameter to a model.

    Args:
        model: the base.
        path: of the parameter.
        adapter_name: PEFT's name for the adapter.

    Returns:
        Path of the :class:`TrainedParameter`, beside the parameter.
    """
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    child = f"trained_{name}"
    if not hasattr(owner, child):
        owner.add_module(child, TrainedParameter(owner, name))
    layer: Any = getattr(owner, child)
    layer.add(adapter_name)
    return f"{parent}.{child}" if parent else child
