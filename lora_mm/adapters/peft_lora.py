"""Computes PEFT's LoRA layers with our operations in training; they are saved and loaded as stock layers.

They are registered by PEFT's hook for custom layers on the config that :func:`~.attach.attach` makes. That registration
is not saved: whoever loads the adapter, with or without lora-mm, gets PEFT's layers. Knows PEFT's LoRA and no methods.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import peft
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from lora_mm.adapters.kernel_choice import HasKernelChoice
from lora_mm.ops.autocast import is_autocast_on
from lora_mm.ops.linear import FrozenLinear, adapted_linears
from lora_mm.ops.lowrank import make_uniform_update
from lora_mm.ops.nf4_weight import read_nf4_weight
from lora_mm.ops.update import Update


class SharedInput:
    """Layers that read the same tensor one after the other, such as q, k and v: the first call computes all of them.

    The other results are kept until their layer is called with the same tensor, at most until the next tensor comes.
    """

    def __init__(self) -> None:
        self.members: list[Any] = []
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def forward(self, layer: Any, x: Tensor) -> Tensor | None:
        """Compute the output of ``layer`` for ``x``.

        Args:
            layer: one of the members.
            x: its input, ``[..., Din]``.

        Returns:
            The output ``[..., Dout]``; None if PEFT's own forward has to run.
        """
        if self._input is x and id(layer) in self._waiting:
            result = self._waiting.pop(id(layer))
            self._input = self._input if self._waiting else None
            return result
        self._input, self._waiting = None, {}
        linear = make_adapted_linear(layer, x)
        if linear is None:
            return None
        candidates = {id(member): make_adapted_linear(member, x) for member in self.members if member is not layer}
        siblings = {key: sibling for key, sibling in candidates.items() if sibling is not None}
        first, *results = adapted_linears(x, [linear, *siblings.values()])
        if siblings:
            self._input, self._waiting = x, dict(zip(siblings, results, strict=True))
        return first


def make_adapted_linear(layer: Any, x: Tensor) -> tuple[FrozenLinear, Update] | None:
    """Convert a LoRA layer of PEFT to what :func:`~lora_mm.ops.linear.adapted_linears` takes.

    Args:
        layer: PEFT's layer.
        x: its input.

    Returns:
        The frozen layer and its update; None for what that function does not compute: several active adapters, dropout,
        variants such as DoRA, and the cases of :func:`make_frozen_linear`.
    """
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] in layer.lora_variant:
        return None
    if layer.in_features != x.shape[-1]:
        return None
    name = names[0]
    dropout, down, up = layer.lora_dropout[name], layer.lora_A[name], layer.lora_B[name]
    if (layer.training and getattr(dropout, "p", 0.0)) or up.bias is not None:
        return None
    base = make_frozen_linear(layer.base_layer, x)
    if base is None:
        return None
    return base, make_uniform_update(down.weight, up.weight, layer.scaling[name], layer.kernels)


def make_frozen_linear(base: nn.Module, x: Tensor) -> FrozenLinear | None:
    """Convert a frozen layer of the base to what ``adapted_linears`` takes.

    Args:
        base: the layer.
        x: its input.

    Returns:
        The layer; None with hooks, autocast, other quantisations, a 4-bit base outside of training, where bitsandbytes'
        own product needs no 16-bit weight, and ``torch.compile``, which fuses operations by itself.
    """
    weight: Any = getattr(base, "weight", None)
    if weight is None or weight.requires_grad or "forward" in base.__dict__ or base._forward_hooks:
        return None
    bias: Tensor | None = getattr(base, "bias", None)
    if base._forward_pre_hooks or (bias is not None and bias.requires_grad) or not x.is_floating_point():
        return None
    if is_autocast_on(x) or torch.compiler.is_compiling():
        return None
    if type(base) is nn.Linear:
        is_plain = type(weight) in (Tensor, nn.Parameter) and weight.dtype == x.dtype
        return FrozenLinear(weight, bias) if is_plain else None
    nf4 = read_nf4_weight(weight) if type(base).__name__ == "Linear4bit" else None
    if nf4 is None or not torch.is_grad_enabled():
        return None
    if base.compute_dtype is not None and base.compute_dtype != x.dtype:
        return None
    return FrozenLinear(nf4, None if bias is None else bias.to(x.dtype))


class _FusedLora(HasKernelChoice):
    """A LoRA layer of PEFT with our forward, and PEFT's where ours does not apply."""

    siblings: SharedInput

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = None if args or kwargs else self.siblings.forward(self, x)
        return super().forward(x, *args, **kwargs) if result is None else result  # type: ignore[misc]  # PEFT's layer


class FusedLoraLinear(_FusedLora, LoraLinear):
    """PEFT's LoRA beside an ``nn.Linear``, with our forward."""


@cache
def _make_fused_class(layer_class: Any) -> Any:
    """``layer_class`` with our forward, made at run time because bitsandbytes cannot be imported everywhere."""
    return type(f"Fused{layer_class.__name__}", (_FusedLora, layer_class), {})


def _make_fused_layer(target: nn.Module, adapter_name: str, **kwargs: Any) -> LoraLayer | None:
    """Our subclass of PEFT's layer for ``target``; None leaves it to PEFT."""
    base = target.get_base_layer() if isinstance(target, LoraLayer) else target
    fused: Any = None
    if type(base) is nn.Linear:
        fused = FusedLoraLinear(target, adapter_name, **kwargs)
    elif type(base).__name__ == "Linear4bit" and kwargs.get("loaded_in_4bit"):
        from peft.tuners.lora.bnb import Linear4bit, dispatch_bnb_4bit

        stock: Any = dispatch_bnb_4bit(target, adapter_name, **kwargs)
        if type(stock) is Linear4bit:
            fused = stock
            fused.__class__ = _make_fused_class(Linear4bit)
    if fused is not None:
        fused.siblings = SharedInput()
        fused.siblings.members.append(fused)
    return cast(LoraLayer | None, fused)


def register_fused_layers(config: peft.LoraConfig) -> None:
    """Compute the LoRA layers that PEFT makes from ``config`` in this process with our operations."""
    # PEFT annotates the values as classes, but calls them as functions
    config._register_custom_module(cast(Any, {nn.Linear: _make_fused_layer}))


def group_shared_inputs(model: nn.Module, groups: Mapping[Any, Sequence[str]]) -> None:
    """Compute the layers of each group together.

    Args:
        model: the model with the layers.
        groups: any key → the paths of linear layers that read one tensor.
    """
    for paths in groups.values():
        layers = [model.get_submodule(path) for path in paths]
        siblings = SharedInput()
        siblings.members = [layer for layer in layers if isinstance(layer, _FusedLora)]
        for layer in siblings.members:
            layer.siblings = siblings
