"""What adapters make of a model's linear layers, read off the adapted model. Knows PEFT's layers; writes no files.

Merging rests on two facts. An update beside a linear layer adds to its weight: W → W + B A. An update of what a norm
returns, x → x + M x + c, is the same as other weights in the linear layers that read the norm: W → W + W M,
bias → bias + W c. Both are low-rank updates beside a linear layer, and that is also what a stock LoRA holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn

from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.placement import Placement
from lora_mm.errors import InputError, suggest_name
from lora_mm.models.anatomy import find_role_modules, get_anatomy, list_modalities
from lora_mm.ops.lowrank import routed_update

NORM_READERS: Mapping[str, tuple[str, ...]] = {
    "attn_norm": ("q", "k", "v", "qkv"),
    "ffn_norm": ("gate", "up", "gate_up"),
}
"""Role of a norm → roles of the linear layers that read what it returns."""

_NOT_ONE_WEIGHT = {
    "crop": "each crop of a picture has its own update of the same weight, and the overview has none",
    "visual": "visual tokens and text tokens pass the same weight, and only the visual ones are updated",
    "token": "each token chooses its own experts among the updates of the same weight",
}
"""Router → why no single weight can hold what it chooses between."""


@dataclass(frozen=True)
class LowRankUpdate:
    """A low-rank update of what a linear layer returns: x → up (down x) + bias, in fp32.

    Attributes:
        down: ``[rank, Din]``.
        up: ``[Dout, rank]``.
        bias: ``[Dout]``; None for zero.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None

    def __add__(self, other: "LowRankUpdate") -> "LowRankUpdate":
        """Both, side by side."""
        return LowRankUpdate(
            torch.cat([self.down, other.down]), torch.cat([self.up, other.up], dim=1), _sum(self, other)
        )

    def after(self, first: "LowRankUpdate") -> "LowRankUpdate":
        """``x + first(x)``, then this update on top of that: of an input, [D] to [D].

        (I + U₂V₂)(I + U₁V₁) = I + U₁V₁ + U₂(V₂ + V₂U₁V₁).
        """
        seen = LowRankUpdate(self.down + (self.down @ first.up) @ first.down, self.up, self.bias)
        if first.bias is not None:
            shift = self.up @ (self.down @ first.bias)
            seen = LowRankUpdate(seen.down, seen.up, shift if self.bias is None else shift + self.bias)
        return first + seen


@dataclass(frozen=True)
class LayerChange:
    """What adapters make of one linear layer.

    Attributes:
        before: the update of what it reads; None where that stays.
        beside: the update of what it returns; None where there is none.
    """

    before: LowRankUpdate | None = None
    beside: LowRankUpdate | None = None

    @property
    def biased(self) -> bool:
        """Whether the layer needs a bias to hold it."""
        return any(update is not None and update.bias is not None for update in (self.before, self.beside))

    def update(self, weight: Tensor) -> LowRankUpdate:
        """The change as one update beside a layer of ``weight`` [Dout, Din], in fp32.

        (W + L)(x + M x + c) = W x + [(W + L) M + L] x + (W + L) c, with L beside it and M before it.
        """
        if self.before is None:
            assert self.beside is not None
            return self.beside
        up, shift = weight @ self.before.up, None
        if self.beside is not None:
            up += self.beside.up @ (self.beside.down @ self.before.up)
        if self.before.bias is not None:
            shift = weight @ self.before.bias
            if self.beside is not None:
                shift += self.beside.up @ (self.beside.down @ self.before.bias)
        seen = LowRankUpdate(self.before.down, up, shift)
        return seen if self.beside is None else seen + self.beside

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The layer's weight and bias with the change in them, in fp32; ``weight``, in fp32, is overwritten."""
        update = self.update(weight)
        weight = weight.addmm_(update.up, update.down)
        if update.bias is not None:
            bias = update.bias if bias is None else bias.to(update.bias.dtype) + update.bias
        return weight, bias


def _sum(one: LowRankUpdate, other: LowRankUpdate) -> Tensor | None:
    if one.bias is None or other.bias is None:
        return other.bias if one.bias is None else one.bias
    return one.bias + other.bias


def check_mergeable(configs: Mapping[str, peft.PeftConfig], modality: str | None) -> None:
    """Raise InputError unless all that the adapters of ``configs`` (by name) change can become one weight each.

    Args:
        modality: what adapters that go by modality are to be merged for.
    """
    faults, several, whole = [], False, dict[str, str]()
    for name, config in configs.items():
        if isinstance(config, peft.LoraConfig):
            if config.use_dora or config.layer_replication or config.target_parameters:
                faults.append(
                    f"{name}: of PEFT's LoRA only the plain kind is merged here; use merge_and_unload for it."
                )
        elif not isinstance(config, RoutedConfig):
            faults.append(f"{name}: adapters of PEFT's type {config.peft_type} are not merged here.")
        for item in _placements(config):
            if item.row.router in _NOT_ONE_WEIGHT:
                faults.append(
                    f"{name}: {item} cannot be merged: {_NOT_ONE_WEIGHT[item.row.router]}. Keep it as an adapter "
                    "(it is small: evaluate, generate and share use it as it is), or train `lora` in its place."
                )
            several = several or (item.row.router == "modality" and item.part == "language")
        for path in config.modules_to_save or []:
            if path in whole:
                faults.append(f"{name}: trains {path} whole, as {whole[path]} does; one of the two has to go.")
            whole[path] = name
    if several and modality is None:
        faults.append(
            "mma on language has other weights for each modality, and a merged weight can be one of them only. Give "
            "--modality image or --modality text (two outputs, one a modality, are the whole adapter), or keep it as "
            "an adapter."
        )
    if faults:
        raise InputError(*faults)


def _placements(config: peft.PeftConfig) -> list[Placement]:
    return config.placements if isinstance(config, RoutedConfig) else []


def routes_by_modality(configs: Sequence[peft.PeftConfig]) -> bool:
    """Whether some adapter treats samples of the language model by their modality."""
    return any(item.row.router == "modality" and item.part == "language" for c in configs for item in _placements(c))


@torch.no_grad()
def collect_changes(model: nn.Module, modality: str | None) -> dict[str, LayerChange]:
    """What the active adapters on ``model`` make of each linear layer, by the layer's path without adapters.

    Args:
        model: the transformers model, with PEFT's layers in it.
        modality: for which adapters that go by modality are read.

    Raises:
        InputError: for a modality that the model does not have.
    """
    known = list_modalities(model)
    if modality is not None and modality not in known:
        raise InputError(f"--modality {modality}: the base has {', '.join(known)}.{suggest_name(modality, known)}")
    index = known.index(modality) if modality else 0
    before: dict[str, LowRankUpdate] = {}
    beside: dict[str, LowRankUpdate] = {}
    readers = _readers(model)
    for path, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer) or ".base_layer" in path:
            continue
        for update, behind in _updates(module, index):
            for place in readers[path] if behind else [path]:
                if behind:
                    before[place] = update.after(before[place]) if place in before else update
                else:
                    beside[place] = beside[place] + update if place in beside else update
    return {path: LayerChange(before.get(path), beside.get(path)) for path in {**before, **beside}}


def _readers(model: nn.Module) -> dict[str, list[str]]:
    """Path of a norm → paths of the linear layers that read it."""
    found: dict[str, list[str]] = {}
    for part in ("language", "vision"):
        if part == "vision" and get_anatomy(model).vision is None:
            continue
        roles = get_anatomy(model).stack(part).roles
        for norm in NORM_READERS:
            columns = [find_role_modules(model, part, role) for role in NORM_READERS[norm] if role in roles]
            for place, *linear in zip(find_role_modules(model, part, norm), *columns, strict=True):
                found[place] = [path for path in linear if not _reads_pictures(path)]
    return found


def _reads_pictures(path: str) -> bool:
    # Mllama's cross-attention: q reads the norm, keys and values the tower's output.
    return path.endswith(("cross_attn.k_proj", "cross_attn.v_proj"))


def _updates(layer: nn.Module, modality: int) -> list[tuple[LowRankUpdate, bool]]:
    """The updates on one module, in order, and whether each is behind a norm; innermost adapters first."""
    found: list[tuple[LowRankUpdate, bool]] = []
    while isinstance(layer, BaseTunerLayer):
        here: list[tuple[LowRankUpdate, bool]] = []
        if isinstance(layer, RoutedLayer):
            names = [name for name in layer.active_adapters if name in layer.placements]
            here = [(_routed(layer, name, modality), layer.placements[name].row.reads == "output") for name in names]
        elif isinstance(layer, LoraLayer):
            here = [(_stock(layer, name), False) for name in layer.active_adapters if name in layer.lora_A]
        found = here + found
        layer = layer.base_layer
    return found


def _routed(layer: RoutedLayer, name: str, modality: int) -> LowRankUpdate:
    """The update of adapter ``name`` for one modality: the layer's own, run on unit vectors in rank space."""
    tensors: dict[str, Any] = layer.get_update_options(name)
    weights = layer.get_learned_scale(name)
    if layer.placements[name].row.router == "modality":
        table = layer.compute_routing_table(name)
        chosen = table[modality if len(table) > 1 else 0]  # a vision tower: whatever it sees is a picture
        weights = chosen if weights is None else chosen * weights
    down, down_bias, up_bias = tensors["down"], tensors["down_bias"], tensors["up_bias"]
    rest = {**tensors, "down": torch.eye(len(down), device=down.device), "down_bias": None, "weights": weights}
    zero = torch.zeros(len(down), layer.out_features, device=down.device)
    up = routed_update(zero, rest["down"], **{**rest, "up_bias": None}).t().contiguous()
    bias = None if up_bias is None else routed_update(zero[:1], down_bias.unsqueeze(0), **rest)[0]
    return LowRankUpdate(down.detach(), up, bias)


def _stock(layer: LoraLayer, name: str) -> LowRankUpdate:
    if not isinstance(layer, LoraLinear) and resolve_quantization_backend(layer.get_base_layer()) is None:
        raise InputError(
            f"LoRA on a {type(layer.get_base_layer()).__name__} is not merged here; it goes beside linear layers."
        )
    up = layer.lora_B[name]
    bias = None if up.bias is None else layer.scaling[name] * up.bias.float()
    return LowRankUpdate(layer.lora_A[name].weight.float(), layer.scaling[name] * up.weight.float(), bias)


def get_unadapted_module(model: nn.Module, path: str) -> nn.Module:
    """The module at ``path`` as the base has it, adapters passed through; of one trained whole, the trained copy."""
    module = _own(model)
    for step in path.split(".") if path else []:
        module = _own(getattr(module, step))
    return module


def _own(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(module, BaseTunerLayer):
            module = module.base_layer
        elif isinstance(module, ModulesToSaveWrapper):
            module = module.modules_to_save[module.active_adapters[0]]
        else:
            return module


def get_dense_weight(module: nn.Module) -> Tensor:
    """The weight of a linear layer; of a quantised one the weight that it stands for."""
    backend = resolve_quantization_backend(module)
    weight: Tensor = module.weight if backend is None else backend.get_base_weight(module)
    return weight.detach()


def find_trained_modules(model: nn.Module) -> list[str]:
    """Paths of the modules that were trained whole."""
    return [path for path, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
