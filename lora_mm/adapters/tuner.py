"""Routed low-rank adapters as a PEFT tuner: one class that puts the layers into a model. Knows no training and no data.

:mod:`.register` registers it with PEFT.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import peft
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.kernel_choice import HasKernelChoice
from lora_mm.adapters.layers import LayerContext, RoutedLayer
from lora_mm.adapters.signal import Signal
from lora_mm.adapters.targets import Target, get_inner_path, resolve_targets
from lora_mm.adapters.trained_parameter import TrainedParameter, train_parameter
from lora_mm.errors import InputError
from lora_mm.models.anatomy import correct_anatomy, find_part, get_anatomy, list_modalities


class RoutedModel(BaseTuner, HasKernelChoice):
    """The PEFT tuner: replaces the modules that the placements target by :class:`~.layers.RoutedLayer`.

    Attributes:
        signal: what the routers read of each batch; None while no adapter on the model routes.
        first_layers: key of layers that share weights → the first of them, which owns these weights.
    """

    prefix = "routed_"
    tuner_layer_cls = (RoutedLayer, TrainedParameter)  # type: ignore[assignment]  # PEFT asks isinstance of it
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  PEFT declares it as an instance's

    def _pre_injection_hook(self, model: nn.Module, config: peft.PeftConfig, adapter_name: str) -> None:
        """Create the attributes: PEFT calls this before the first adapter, which its constructor puts on the model."""
        self.signal: Signal | None = None
        self.first_layers: dict[tuple[str, ...], RoutedLayer] = {}

    def _prepare_adapter_config(self, peft_config: peft.PeftConfig, model_config: dict[str, Any]) -> RoutedConfig:
        """Have PEFT target no modules if there are no placements, for example when only whole parts are trained."""
        config = _check_routed(peft_config)
        config.target_modules = None if config.placements else DUMMY_TARGET_MODULES
        return config

    def _prepare_model(self, peft_config: peft.PeftConfig, model: nn.Module) -> None:
        """Find the targets and check the new adapter, before PEFT changes the model."""
        config = _check_routed(peft_config)
        get_anatomy(model, config.anatomy)
        config.targets = resolve_targets(model, config.placements)
        placements = [item.resolve() for item in config.placements]
        crop_experts = {item.experts for item in placements if item.row.router == "crop"}
        if self.signal is not None:
            crop_experts |= {self.signal.crop_experts} - {0}
        if len(crop_experts) > 1:
            raise InputError(
                f"crop_lora with {', '.join(map(str, sorted(crop_experts)))} experts on one model; "
                "give all the same number of experts."
            )
        # All checks are done: from here on the model changes.
        if self.signal is None and any(item.row.router for item in placements):
            self.signal = Signal(model)
        if self.signal is not None:
            self.signal.crop_experts = max(crop_experts, default=0)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter on the model: its layers, and its copies of bare parameters."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = _check_routed(self.peft_config[adapter_name])
        for path in config.trained_parameters or []:
            self._train_parameter(model, path, adapter_name)
        if config.trained_parameters:
            self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _train_parameter(self, model: nn.Module, path: str, adapter_name: str) -> None:
        """Add an adapter's copy of a bare parameter, in the part of the parameter."""
        part, added = find_part(model, path), train_parameter(model, path, adapter_name)
        anatomy = get_anatomy(model)
        if added not in anatomy.parts[part]:
            correct_anatomy(model, replace(anatomy, parts={**anatomy.parts, part: (*anatomy.parts[part], added)}))

    @staticmethod
    def _check_target_module_exists(peft_config: peft.PeftConfig, key: str) -> bool:
        # An inner layer is made with the outer one.
        return key in _check_routed(peft_config).targets and not key.endswith(get_inner_path(""))

    def _create_and_replace(
        self,
        peft_config: peft.PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Put the adapter on one target module: a layer for each of its placements there, one inside the other."""
        targets, path = _check_routed(peft_config).targets, current_key
        while path in targets:
            layer = target if isinstance(target, RoutedLayer) else RoutedLayer(target, self.signal)
            self._add_adapter(layer, adapter_name, targets[path])
            if layer is not target:
                self._replace_module(parent, target_name, layer, target)
            parent, target_name, target, path = layer, "base_layer", layer.base_layer, get_inner_path(path)

    def _add_adapter(self, layer: RoutedLayer, adapter_name: str, resolved: Target) -> None:
        key = _get_sharing_key(adapter_name, resolved)
        norm = self.model.get_submodule(resolved.residual) if resolved.residual else None
        context = LayerContext(
            role=resolved.role,
            modalities=len(list_modalities(self.model)) if resolved.placement.part == "language" else 1,
            first=self.first_layers.get(key),
            residual=norm.get_base_layer() if isinstance(norm, RoutedLayer) else norm,
        )
        layer.kernels = self.kernels
        layer.update_layer(adapter_name, resolved.placement, context)
        self.first_layers.setdefault(key, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Set the module. PEFT's version also copies weights on unload, which breaks parts that are trained whole."""
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Announce the tower's input: PEFT calls this around generate, which runs the tower before the model."""
        input_ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if self.signal is not None and input_ids is not None:
            self.signal.announce_tower_input(input_ids, kwargs.get("pixel_values"), kwargs.get("image_sizes"))
        yield

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from the model."""
        super().delete_adapter(adapter_name)
        self.first_layers = {key: layer for key, layer in self.first_layers.items() if key[0] != adapter_name}


def _check_routed(config: peft.PeftConfig) -> RoutedConfig:
    """Cast ``config`` to our type; raises InputError for the config of another PEFT method."""
    if not isinstance(config, RoutedConfig):
        raise InputError(f"A {type(config).__name__} cannot be added to routed adapters; give a RoutedConfig.")
    return config


def _get_sharing_key(adapter_name: str, target: Target) -> tuple[str, ...]:
    """Key of the layers that share weights with ``target``: a part's with a router by modality, a feed-forward's with
    one by token, tied q, k and v of an attention; any other layer's key is its own."""
    item = target.placement
    router = item.row.router or "none"
    if router == "modality":
        return adapter_name, router, item.part
    if router == "token" or (item.tied_qkv and target.role in ("q", "k", "v")):
        return adapter_name, router, target.layer
    return adapter_name, router, target.layer, target.role
