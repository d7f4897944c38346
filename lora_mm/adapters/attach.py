"""Puts adapters on a model: :func:`attach`. Knows no training and no data."""

from collections.abc import Iterable, Mapping
from typing import Any

import peft
import torch
from torch import nn

from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.peft_lora import group_shared_inputs, register_fused_layers
from lora_mm.adapters.placement import Placement, parse_placement
from lora_mm.adapters.plain_lora import group_by_input, make_lora_config
from lora_mm.adapters.targets import resolve_targets
from lora_mm.adapters.trained_parts import find_trained_parameters, find_trained_paths, train_whole_in_fp32
from lora_mm.errors import InputError
from lora_mm.models.anatomy import get_anatomy
from lora_mm.models.description import ModelDescription, parse_description
from lora_mm.ops.kernel_choice import Kernels


def attach(
    model: nn.Module,
    adapters: str | Iterable[str | Mapping[str, Any] | Placement],
    *,
    train: Iterable[str] = (),
    adapter_name: str = "default",
    kernels: Kernels = "auto",
    anatomy: Mapping[str, Any] | ModelDescription | None = None,
) -> peft.PeftModel:
    """Freeze ``model`` and put adapters on it.

    Everything that trains is in fp32, whatever the dtype of the model.

    Args:
        model: a transformers model.
        adapters: a method's name, or a list of names, of dictionaries of ``Placement`` fields, or of placements.
            Plain LoRA alone becomes a stock PEFT LoRA, which loads where lora-mm is not installed; not if a bare
            parameter is trained beside it, which a stock LoRA cannot hold.
        train: parts to train whole beside the adapters, such as ``connector``.
        adapter_name: PEFT's name for the adapter.
        kernels: how the adapters' operations run: ``torch``, ``triton`` where it can run, or ``auto``: Triton where it
            was measured to be faster. Applies to this model, also to adapters that are added to it later.
        anatomy: what lora-mm does not find in the model by itself, as in a recipe's ``base.anatomy``.

    Returns:
        A ``PeftModel``. Save and load it as any other. Until it is trained it computes exactly what ``model`` did; up
        to rounding if a part of a 16-bit model is trained whole, because that part then computes in fp32.

    Raises:
        InputError: a method, part, site or number is not possible; names every fault of the placements.

    Example:
        >>> model = lora_mm.attach(model, ["mma", {"method": "mma", "part": "vision"}])
    """
    items = [adapters] if isinstance(adapters, str) else list(adapters)
    placements = [parse_placement(item) for item in items]
    described = get_anatomy(model, parse_description(anatomy)).description
    parts = list(train)
    modules_to_save = find_trained_paths(model, parts) or None
    parameters = find_trained_parameters(model, parts) or None
    if not placements and not modules_to_save and not parameters:
        raise InputError("Nothing to train: name at least one adapter, or one part to train whole.")
    if placements and not parameters and all(item.method == "lora" for item in placements):
        targets = resolve_targets(model, placements)
        lora = make_lora_config(targets, [item.resolve() for item in placements], modules_to_save)
        register_fused_layers(lora)
        adapted = _add_peft(model, lora, adapter_name)
        group_shared_inputs(model, group_by_input(targets))
    else:
        routed = RoutedConfig(
            placements=placements, modules_to_save=modules_to_save, trained_parameters=parameters, anatomy=described
        )
        adapted = _add_peft(model, routed, adapter_name)
    train_whole_in_fp32(adapted, adapter_name)
    set_kernels(adapted, kernels)
    return adapted


def _add_peft(model: Any, config: peft.PeftConfig, adapter_name: str) -> peft.PeftModel:
    adapted = peft.get_peft_model(model, config, adapter_name=adapter_name)
    assert isinstance(adapted, peft.PeftModel)  # PEFT's mixed model is for several types of adapter
    return adapted


def find_idle_experts(model: peft.PeftModel, adapter_name: str = "default") -> dict[str, list[int]]:
    """Find the experts whose update is zero in every layer: no crop, or no token, reached them in training.

    Args:
        model: the base with the adapter on it.
        adapter_name: PEFT's name for the adapter.

    Returns:
        Method → indices of its idle experts; methods without any are left out.
    """
    used: dict[tuple[str, int], torch.Tensor] = {}
    for layer in model.modules():
        if isinstance(layer, RoutedLayer) and adapter_name in layer.placements:
            up = layer.routed_up[adapter_name].weight
            nonzero = up.flatten(1).any(dim=1)
            key = layer.placements[adapter_name].method, len(nonzero)
            used[key] = used.get(key, torch.zeros_like(nonzero)) | nonzero
    idle = {method: (~experts).nonzero().flatten().tolist() for (method, _), experts in used.items()}
    return {method: experts for method, experts in idle.items() if experts}
