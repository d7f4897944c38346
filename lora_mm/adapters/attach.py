"""Routed low-rank adapters as a PEFT method, and the door to it: :func:`attach`. Knows no training and no data."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from lora_mm.adapters.config import ROUTED, RoutedConfig
from lora_mm.adapters.kernel_choice import HasKernelChoice, set_kernels
from lora_mm.adapters.layers import RoutedLayer, Site
from lora_mm.adapters.peft_lora import group_shared_inputs, register_fused_layers
from lora_mm.adapters.placement import Placement, parse_placement
from lora_mm.adapters.signal import Signal
from lora_mm.adapters.targets import Target, resolve_targets
from lora_mm.errors import InputError
from lora_mm.models.anatomy import find_part_modules, get_anatomy, list_modalities
from lora_mm.ops.kernel_choice import Kernels


class RoutedModel(BaseTuner, HasKernelChoice):
    """The PEFT tuner: replaces the modules that the placements name by :class:`RoutedLayer`."""

    prefix = "routed_"
    tuner_layer_cls = RoutedLayer
    signal: Signal | None
    first_layers: dict[tuple[str, ...], RoutedLayer]
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _prepare_adapter_config(self, peft_config: RoutedConfig, model_config: dict[str, Any]) -> RoutedConfig:
        peft_config.target_modules = None if peft_config.placements else DUMMY_TARGET_MODULES
        return peft_config

    def _prepare_model(self, peft_config: RoutedConfig, model: nn.Module) -> None:
        # Derived from model and placements, so neither saved nor a field: module path → placement.
        self.__dict__.setdefault("signal", None)
        self.__dict__.setdefault("first_layers", {})
        peft_config.resolved = resolve_targets(model, peft_config.placements)
        experts = {item.experts or 0 for item in peft_config.placements if item.row.router == "crop"}
        if self.signal is not None:
            experts |= {self.signal.crop_experts} - {0}
        if len(experts) > 1:
            raise InputError(f"crop_lora for {sorted(experts)} crops in one model; give all as many experts.")
        # All is checked: only now is the model changed.
        if self.signal is None and any(item.row.router for item in peft_config.placements):
            self.signal = Signal(model)
        if self.signal is not None:
            self.signal.crop_experts = max(experts, default=0)

    @staticmethod
    def _check_target_module_exists(peft_config: RoutedConfig, key: str) -> bool:
        return key in peft_config.resolved

    def _create_and_replace(
        self,
        peft_config: RoutedConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        spot: Target = peft_config.resolved[current_key]
        item = spot.placement
        layer = target if isinstance(target, RoutedLayer) else RoutedLayer(target, self.signal)
        shared = _shared(adapter_name, spot)
        norm = self.model.get_submodule(spot.residual) if spot.residual else None
        site = Site(
            role=spot.role,
            modalities=len(list_modalities(self.model)) if item.part == "language" else 1,
            first=self.first_layers.get(shared),
            residual=norm.get_base_layer() if isinstance(norm, RoutedLayer) else norm,
        )
        layer.kernels = self.kernels
        layer.update_layer(adapter_name, item, site)
        self.first_layers.setdefault(shared, layer)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version copies the child's weights over on unload, which breaks parts that are trained whole.
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT calls this around forward and generate; generate runs the tower before the model's forward.
        input_ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if self.signal is not None and input_ids is not None:
            self.signal.announce_tower_input(input_ids, kwargs.get("pixel_values"))
        yield

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from the model."""
        super().delete_adapter(adapter_name)
        self.first_layers = {key: layer for key, layer in self.first_layers.items() if key[0] != adapter_name}


def _shared(adapter_name: str, spot: Target) -> tuple[str, ...]:
    """What names the layers that share a router, or a router's input: by modality a part, by token a feed-forward."""
    router = spot.placement.row.router or "none"
    return adapter_name, router, spot.layer if router == "token" else spot.placement.part


if ROUTED not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(
        name=ROUTED.value.lower(), config_cls=RoutedConfig, model_cls=RoutedModel, prefix=RoutedModel.prefix
    )


def attach(
    model: nn.Module,
    adapters: str | Iterable[str | Mapping[str, Any] | Placement],
    *,
    train: Iterable[str] = (),
    adapter_name: str = "default",
    kernels: Kernels = "auto",
) -> peft.PeftModel:
    """Freeze ``model`` and put adapters on it.

    Args:
        model: a transformers model of a family that ``models.anatomy`` describes.
        adapters: a method's name, or a list of names, of dictionaries of ``Placement`` fields, or of placements.
            Plain LoRA alone becomes a stock PEFT LoRA, which loads where lora-mm is not installed.
        train: parts to train whole beside the adapters, such as ``connector``.
        adapter_name: PEFT's name for the adapter.
        kernels: form of the adapters' operations: ``torch``, ``triton`` where it can run, or ``auto``: Triton where it
            was measured to be faster. It belongs to this model, and adapters added to it later follow it.

    Returns:
        A ``PeftModel``; at this point it computes exactly what ``model`` did. Save and load it as any other.

    Raises:
        InputError: for a method, part, site or number that cannot be; every fault of a placement at once.

    Example:
        >>> model = lora_mm.attach(model, ["mma", {"method": "mma", "part": "vision"}])
    """
    items = [adapters] if isinstance(adapters, str) else list(adapters)
    placements = [parse_placement(item) for item in items]
    get_anatomy(model)  # refuses a model that is not described, before anything is changed
    whole = _part_paths(model, train) or None
    if not placements and not whole:
        raise InputError("Nothing to train: name at least one adapter or one part to train whole.")
    if placements and all(item.method == "lora" for item in placements):
        config: peft.PeftConfig = _stock_lora(model, placements, whole)
        register_fused_layers(config)
    else:
        config = RoutedConfig(placements=placements, modules_to_save=whole)
    config.base_model_name_or_path = getattr(model.config, "name_or_path", None)
    together = _readers(resolve_targets(model, placements)) if isinstance(config, peft.LoraConfig) else {}
    adapted = peft.get_peft_model(model, config, adapter_name=adapter_name)
    group_shared_inputs(model, together)
    set_kernels(adapted, kernels)
    return adapted


_READ_TOGETHER = {"q": "norm", "k": "norm", "v": "norm", "gate": "ffn", "up": "ffn"}
"""Role of a linear layer → what it reads, where others of its block read the same."""


_CROSS = ("cross", "EncDec")
"""Words in the path of an attention whose q reads one tensor, and k and v another."""


def _readers(targets: Mapping[str, Target]) -> dict[tuple[str, str], list[str]]:
    """Paths of the linear layers that read one tensor, by block."""
    found: dict[tuple[str, str], list[str]] = {}
    for path, target in targets.items():
        parent = path.rpartition(".")[0]
        if target.role in _READ_TOGETHER and not any(word in parent for word in _CROSS):
            found.setdefault((parent, _READ_TOGETHER[target.role]), []).append(path)
    return found


def train_whole_in_fp32(model: peft.PeftModel, adapter_name: str = "default") -> None:
    """Keep the parts that an adapter trains whole in fp32, whatever the base is in: inputs are cast on the way in,
    outputs back. The base's own copies stay as they are, so without the adapter the base computes what it always did.
    """
    base = model.get_base_model()
    dtype: torch.dtype = base.dtype
    for path in model.peft_config[adapter_name].modules_to_save or []:
        module = base.get_submodule(path).modules_to_save[adapter_name]
        module.float()
        module.register_forward_pre_hook(
            lambda _, args, kwargs: _recast((args, kwargs), torch.float32), with_kwargs=True
        )
        module.register_forward_hook(lambda _, args, out: _recast(out, dtype))


def find_idle_experts(model: peft.PeftModel, adapter_name: str = "default") -> dict[str, list[int]]:
    """Method → experts that do nothing in any layer: what trained the adapter held no crop, or no token, for them."""
    busy: dict[tuple[str, int], torch.Tensor] = {}
    for layer in model.modules():
        if isinstance(layer, RoutedLayer) and adapter_name in layer.placements:
            moved = layer.routed_up[adapter_name].weight.flatten(1).any(dim=1)
            kind = layer.placements[adapter_name].method, len(moved)
            busy[kind] = busy.get(kind, torch.zeros_like(moved)) | moved
    idle = {method: (~moved).nonzero().flatten().tolist() for (method, _), moved in busy.items()}
    return {method: experts for method, experts in idle.items() if experts}


def _recast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with every floating-point tensor in it, however deep in tuples and dictionaries, in ``dtype``."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):  # a model's output among them
        return type(value)(**{name: _recast(item, dtype) for name, item in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(_recast(item, dtype) for item in value)
    return value


def _part_paths(model: nn.Module, parts: Iterable[str]) -> list[str]:
    """Modules to train whole; one inside another of them (Qwen's connector is in its tower) goes with that one."""
    known, paths = get_anatomy(model).parts, []
    for part in parts:
        if part not in known:
            raise InputError(f"Unknown part '{part}' to train; the model has: {', '.join(known)}.")
        paths += find_part_modules(model, part)
    return [path for path in dict.fromkeys(paths) if not any(path.startswith(f"{other}.") for other in paths)]


def _stock_lora(model: nn.Module, placements: list[Placement], whole: list[str] | None) -> peft.LoraConfig:
    """The same placements as PEFT's LoRA: full module paths, ranks and alphas by path where they differ."""
    resolved = {path: target.placement for path, target in resolve_targets(model, placements).items()}
    first = placements[0]
    unlike = [name for name in ("dropout", "bias") if len({asdict(item)[name] for item in placements}) > 1]
    if unlike or first.bias:
        raise InputError(f"Plain LoRA has one {' and one '.join(unlike or ['bias=false'])} for all its placements.")
    return peft.LoraConfig(
        r=first.rank,
        lora_alpha=round(first.factor * first.rank, 6),
        lora_dropout=first.dropout or 0.0,
        target_modules=sorted(resolved),
        rank_pattern={path: item.rank for path, item in resolved.items() if item.rank != first.rank},
        alpha_pattern={
            path: round(item.factor * item.rank, 6)
            for path, item in resolved.items()
            if item.factor * item.rank != first.factor * first.rank
        },
        modules_to_save=whole,
    )
