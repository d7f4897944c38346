"""PEFT's own LoRA layers, computed by our operations while they train; saved and loaded as the stock layers they are.

Registered by PEFT's door for custom layers on the config that :func:`~.tuner.attach` makes. That registration is not
saved: whoever loads the adapter, with or without lora-mm, gets PEFT's layers. Knows PEFT's LoRA and no methods.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from lora_mm.ops.autocast import autocast_on
from lora_mm.ops.linear import Frozen, adapted_linears
from lora_mm.ops.lowrank import Update, uniform
from lora_mm.ops.nf4 import packed


class SharedInput:
    """Layers that read the same tensor one after the other, such as q, k and v: the first that is called does all.

    Results wait here until they are asked for with that same tensor, and never longer than until the next one comes.
    """

    def __init__(self) -> None:
        self.members: list[Any] = []
        self._read: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def forward(self, layer: Any, x: Tensor) -> Tensor | None:
        """What ``layer`` makes of ``x``; None where it has to do so in PEFT's way."""
        if self._read is x and id(layer) in self._waiting:
            result = self._waiting.pop(id(layer))
            self._read = self._read if self._waiting else None
            return result
        self._read, self._waiting = None, {}
        own = as_adapted(layer, x)
        if own is None:
            return None
        others = [(id(other), form) for other in self.members if other is not layer and (form := as_adapted(other, x))]
        first, *results = adapted_linears(x, [own, *(form for _, form in others)])
        if others:
            self._read = x
            self._waiting = {key: result for (key, _), result in zip(others, results, strict=True)}
        return first


def as_adapted(layer: Any, x: Tensor) -> tuple[Frozen, Update] | None:
    """``layer`` as :func:`~lora_mm.ops.linear.adapted_linears` takes it; None for what that does not do.

    That is: several adapters at once, dropout, variants such as DoRA, and what :func:`as_frozen` tells.
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
    base = as_frozen(layer.base_layer, x)
    return None if base is None else (base, uniform(down.weight, up.weight, layer.scaling[name]))


def as_frozen(base: nn.Module, x: Tensor) -> Frozen | None:
    """A frozen base layer in the form of ``adapted_linears``, for a product with ``x``; None where that has none.

    None is for hooks, autocast, other quantisations, a 4-bit base outside of training, where bitsandbytes' own product
    needs no 16-bit weight, and ``torch.compile``, which takes operations and fuses by itself.
    """
    weight: Any = getattr(base, "weight", None)
    if weight is None or weight.requires_grad or "forward" in base.__dict__ or base._forward_hooks:
        return None
    bias: Tensor | None = getattr(base, "bias", None)
    if base._forward_pre_hooks or (bias is not None and bias.requires_grad) or not x.is_floating_point():
        return None
    if autocast_on(x) or torch.compiler.is_compiling():
        return None
    if type(base) is nn.Linear:
        plain = type(weight) in (Tensor, nn.Parameter) and weight.dtype == x.dtype
        return Frozen(weight, bias) if plain else None
    form = packed(weight) if type(base).__name__ == "Linear4bit" else None
    if form is None or not torch.is_grad_enabled():
        return None
    if base.compute_dtype is not None and base.compute_dtype != x.dtype:
        return None
    return Frozen(form, None if bias is None else bias.to(x.dtype))


class _Trained:
    """A LoRA layer of PEFT whose forward is ours where it can be."""

    siblings: SharedInput

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = None if args or kwargs else self.siblings.forward(self, x)
        return super().forward(x, *args, **kwargs) if result is None else result  # type: ignore[misc]


class FusedLoraLinear(_Trained, LoraLinear):
    """PEFT's LoRA beside an ``nn.Linear``."""


@cache
def _trained(layer: Any) -> Any:
    """``layer``, which cannot be imported everywhere, with our forward."""
    return type(f"Trained{layer.__name__}", (_Trained, layer), {})


def _layer(target: nn.Module, adapter_name: str, **kwargs: Any) -> LoraLayer | None:
    """Our subclass of PEFT's layer for ``target``; None leaves it to PEFT."""
    base = target.get_base_layer() if isinstance(target, LoraLayer) else target
    made: Any = None
    if type(base) is nn.Linear:
        made = FusedLoraLinear(target, adapter_name, **kwargs)
    elif type(base).__name__ == "Linear4bit" and kwargs.get("loaded_in_4bit"):
        from peft.tuners.lora.bnb import Linear4bit, dispatch_bnb_4bit

        stock = dispatch_bnb_4bit(target, adapter_name, **kwargs)
        if type(stock) is Linear4bit:
            made = stock
            kind: Any = Linear4bit
            made.__class__ = _trained(kind)
    if made is not None:
        made.siblings = SharedInput()
        made.siblings.members.append(made)
    return made


def register_fused_layers(config: peft.LoraConfig) -> None:
    """Have the LoRA layers that PEFT makes from ``config`` in this process computed by ours."""
    config._register_custom_module({nn.Linear: _layer})


def group_shared_inputs(model: nn.Module, groups: Mapping[Any, Sequence[str]]) -> None:
    """Let the layers at the paths of each group, which read one tensor, be computed together."""
    for paths in groups.values():
        layers = [model.get_submodule(path) for path in paths]
        together = SharedInput()
        together.members = [layer for layer in layers if isinstance(layer, _Trained)]
        for layer in together.members:
            layer.siblings = together
