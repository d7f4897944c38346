"""Verifies a merge: runs the same probes through the adapted and the merged model. Knows no recipe and no data."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.warning import PeftWarning
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForImageTextToText

from lora_mm.adapters.layers import RoutedLayer
from lora_mm.merging.drift import Batch, Drift, compute_probe_logits, measure_drift
from lora_mm.models.anatomy import list_modalities
from lora_mm.models.base_files import TRUSTED_ONLY
from lora_mm.models.loading import get_default_device
from lora_mm.models.precision import Dtype

ProbeLogits = dict[str, list[Tensor]]
"""Modality → logits on its probes, as :func:`~lora_mm.merging.drift.compute_probe_logits` returns them."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The adapted model's logits on the probes, kept after the model is freed.

    Attributes:
        probes: modality → batches with ``labels``.
        adapted: logits with the adapters.
        base: logits without them.
        model_bytes: memory of the adapted model.
    """

    probes: Mapping[str, Sequence[Batch]]
    adapted: ProbeLogits
    base: ProbeLogits
    model_bytes: int

    def compare(self, model: nn.Module) -> dict[str, Drift]:
        """Measure modality → drift between the adapted model and ``model``, a merged one."""
        merged = _compute_logits(model, self.probes)
        return {name: measure_drift(self.adapted[name], merged[name], self.base[name]) for name in merged}


def record_reference(model: Any, probes: Mapping[str, Sequence[Batch]], *, modality: str | None) -> Reference:
    """Run the probes through the adapted model, and through its base.

    Args:
        model: transformers model with the adapters on it.
        probes: modality → batches with ``labels``.
        modality: route every probe by this modality, whatever it contains; None to route each by its own modality.
    """
    with _route_all(model, modality):
        adapted = _compute_logits(model, probes)
    with disable_adapters(model):
        base = _compute_logits(model, probes)
    return Reference(probes, adapted, base, model.get_memory_footprint())


def load_merged_model(
    folder: Path, *, dtype: Dtype, attention: str | None = None, max_bytes: int, offload: Path
) -> nn.Module:
    """Load a merged checkpoint by plain transformers, in limited memory.

    Args:
        folder: folder of the checkpoint.
        dtype: of the loaded weights.
        attention: transformers' ``attn_implementation``; None for its default.
        max_bytes: maximum bytes of weights in memory.
        offload: folder for layers that do not fit: a model merged from 4 bits is several times its quantised base.
    """
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if attention:
        options["attn_implementation"] = attention
    device = get_default_device()
    fits = sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= max_bytes
    if not fits:
        device_key = 0 if device.type == "cuda" else device.type
        options |= {"device_map": "auto", "max_memory": {device_key: max_bytes}, "offload_folder": str(offload)}
    model: Any = AutoModelForImageTextToText.from_pretrained(str(folder), **TRUSTED_ONLY, **options)
    return model.to(device) if fits else model


def load_stock_lora(model: Any, folder: Path) -> nn.Module:
    """Put a stock LoRA on a base by plain PEFT.

    Args:
        model: the base, a transformers model without adapters.
        folder: folder of the LoRA.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PeftWarning)  # PEFT cannot merge LoRAs with biases, and says so
        return peft.PeftModel.from_pretrained(model, str(folder))


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Switch off all adapters on ``model`` inside the block."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _compute_logits(model: nn.Module, probes: Mapping[str, Sequence[Batch]]) -> ProbeLogits:
    return {modality: compute_probe_logits(model, batches) for modality, batches in probes.items()}


@contextmanager
def _route_all(model: nn.Module, modality: str | None) -> Iterator[None]:
    """Route every row by ``modality`` inside the block, because video probes hold pictures. None changes nothing."""
    if modality is None:
        yield
        return
    hook = _hook_modality(model, list_modalities(model).index(modality))
    try:
        yield
    finally:
        hook.remove()


def _hook_modality(model: nn.Module, index: int) -> RemovableHandle:
    signals = {layer.signal for layer in model.modules() if isinstance(layer, RoutedLayer) and layer.signal}

    def route(module: nn.Module, args: Any) -> None:
        for signal in signals:
            assert signal.modality is not None
            signal.modality = torch.full_like(signal.modality, index)

    return model.register_forward_pre_hook(route)
