"""Reads changes of linear layers, and base weights, from an adapted model. Knows PEFT's layers; writes no files."""

from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn

from lora_mm.adapters.layers import RoutedLayer
from lora_mm.errors import InputError, suggest_name
from lora_mm.merging.changes import LayerChange, LowRankUpdate
from lora_mm.models.anatomy import get_anatomy, list_modalities
from lora_mm.models.layer_roles import NORM_READERS, list_readers
from lora_mm.ops.lowrank import routed_update


@torch.no_grad()
def collect_changes(model: nn.Module, modality: str | None) -> dict[str, LayerChange]:
    """Collect what the active adapters on ``model`` change in each linear layer.

    Args:
        model: transformers model with PEFT's layers in it.
        modality: modality to merge for, where an adapter depends on it.

    Returns:
        Path of the linear layer in the model without adapters → its change.

    Raises:
        InputError: the model does not have this modality, or a module that reads an adapted norm is not a linear layer.
    """
    known = list_modalities(model)
    if modality is not None and modality not in known:
        raise InputError(
            f"--modality {modality}: unknown modality; the base has {', '.join(known)}.{suggest_name(modality, known)}"
        )
    index = known.index(modality) if modality else 0
    before: dict[str, LowRankUpdate] = {}
    beside: dict[str, LowRankUpdate] = {}
    readers = _list_norm_readers(model)
    for path, module in model.named_modules():
        if not isinstance(module, RoutedLayer | LoraLayer) or ".base_layer" in path:
            continue
        for update, follows_norm in _read_updates(module, index):
            if follows_norm:
                _check_that_readers_are_linear(model, path, readers[path])
                for reader in readers[path]:
                    before[reader] = update.compose_after(before[reader]) if reader in before else update
            else:
                beside[path] = beside[path] + update if path in beside else update
    return {path: LayerChange(before.get(path), beside.get(path)) for path in {**before, **beside}}


def _list_norm_readers(model: nn.Module) -> dict[str, list[str]]:
    """Path of a norm → paths of the modules that read its output."""
    anatomy = get_anatomy(model)
    return {
        roles[norm]: [roles[role] for role in list_readers(roles, norm)]
        for stack in (anatomy.language, anatomy.vision)
        if stack is not None
        for roles in stack.roles
        for norm in NORM_READERS
        if norm in roles
    }


def _check_that_readers_are_linear(model: nn.Module, norm: str, readers: list[str]) -> None:
    unlisted = get_anatomy(model).other_readers.get(norm, ())
    for reader in (*readers, *unlisted):
        module = get_unadapted_module(model, reader)
        if reader in unlisted or not isinstance(module, nn.Linear):
            raise InputError(
                f"{norm} is adapted, and {reader} reads it, a {type(module).__name__} that lora-mm cannot merge into. "
                "Keep the adapter, or place it elsewhere (mma at `attn` alone, or lora)."
            )


def _read_updates(module: BaseTunerLayer, modality: int) -> list[tuple[LowRankUpdate, bool]]:
    """Read the updates on one module, innermost adapter first, each with whether it follows a norm."""
    updates: list[tuple[LowRankUpdate, bool]] = []
    layer: Any = module
    while isinstance(layer, BaseTunerLayer):
        outer: list[tuple[LowRankUpdate, bool]] = []
        if isinstance(layer, RoutedLayer):
            names = [name for name in layer.active_adapters if name in layer.placements]
            outer = [
                (_read_routed_update(layer, name, modality), layer.placements[name].row.reads == "output")
                for name in names
            ]
        elif isinstance(layer, LoraLayer):
            outer = [(_read_lora_update(layer, name), False) for name in layer.active_adapters if name in layer.lora_A]
        updates = outer + updates
        layer = cast(Any, layer).base_layer
    return updates


def _read_routed_update(layer: RoutedLayer, name: str, modality: int) -> LowRankUpdate:
    """Read the update of adapter ``name`` for one modality, by running it on unit vectors in rank space."""
    tensors: dict[str, Any] = layer.get_update_options(name)
    weights = layer.get_learned_scale(name)
    if layer.placements[name].row.router == "modality":
        table = layer.compute_routing_table(name)
        chosen = table[modality if len(table) > 1 else 0]  # a vision tower has one modality
        weights = chosen if weights is None else chosen * weights
    down, down_bias, up_bias = tensors["down"], tensors["down_bias"], tensors["up_bias"]
    options = {**tensors, "down": torch.eye(len(down), device=down.device), "down_bias": None, "weights": weights}
    zero = torch.zeros(len(down), layer.out_features, device=down.device)
    up = routed_update(zero, options["down"], **{**options, "up_bias": None}).t().contiguous()
    bias = None if up_bias is None else routed_update(zero[:1], down_bias.unsqueeze(0), **options)[0]
    return LowRankUpdate(down.detach(), up, bias)


def _read_lora_update(layer: LoraLayer, name: str) -> LowRankUpdate:
    if not isinstance(layer, LoraLinear) and resolve_quantization_backend(layer.get_base_layer()) is None:
        raise InputError(
            f"LoRA on a {type(layer.get_base_layer()).__name__} cannot be merged here, only LoRA beside linear layers."
        )
    up, scaling = cast(nn.Linear, layer.lora_B[name]), layer.scaling[name]
    bias = None if up.bias is None else scaling * up.bias.float()
    down = cast(Tensor, layer.lora_A[name].weight)
    return LowRankUpdate(down.float(), scaling * up.weight.float(), bias)


def get_unadapted_module(model: nn.Module, path: str) -> nn.Module:
    """Get the base's module inside its adapters; for a module that is trained whole, the trained copy.

    Args:
        model: transformers model with PEFT's layers in it.
        path: path of the module in the model without adapters; empty for the model itself.
    """
    module = _unwrap(model)
    for step in path.split(".") if path else []:
        module = _unwrap(getattr(module, step))
    return module


def _unwrap(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(module, BaseTunerLayer):
            module = cast(Any, module).base_layer
        elif isinstance(module, ModulesToSaveWrapper):
            module = module.modules_to_save[module.active_adapters[0]]
        else:
            return module


def get_dense_weight(module: nn.Module) -> Tensor:
    """Get the weight of a linear layer; for a quantised layer, the dequantised weight."""
    backend = resolve_quantization_backend(module)
    weight = cast(Tensor, module.weight) if backend is None else backend.get_base_weight(module)
    return weight.detach()


def find_trained_modules(model: nn.Module) -> list[str]:
    """Find the paths of the modules that an adapter trains whole."""
    return [path for path, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
