"""What adapters changed, written for those without lora-mm: in the base's weights, or as a stock PEFT LoRA.

Knows changes and files; knows no adapter's method and verifies nothing.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_mm.artifact.files import WEIGHTS
from lora_mm.errors import InputError, LoraMMError
from lora_mm.merging.changes import LayerChange, find_trained_modules, get_dense_weight, get_unadapted_module
from lora_mm.merging.shards import CheckpointPlan
from lora_mm.models.loading import Base


@torch.no_grad()
def write_model(
    model: Any, changed: Mapping[str, LayerChange], folder: Path, *, base: Base, dtype: torch.dtype
) -> None:
    """Write ``model`` with the changes in its weights as a plain transformers checkpoint, tensor by tensor.

    Of a quantised base it is the weights that the adapter was trained on: dequantised, and never quantised again.

    Raises:
        InputError: when a layer needs a bias that no config of the family gives it.
        LoraMMError: when the disk has no room.
    """
    biased = [path for path, change in changed.items() if change.biased]
    plan = CheckpointPlan(model, dtype, biased=biased, own=find_trained_modules(model))
    if plan.unbiased:
        raise InputError(
            f"The adapter has biases, and {plan.unbiased[0]} ({len(plan.unbiased)} such layers) has none, nor does "
            f"any config of '{model.config.model_type}' give it one: transformers would drop it.",
            "Write a stock LoRA, which holds biases (--as lora), or train without (adapters.N.bias=false).",
        )
    free = shutil.disk_usage(folder).free
    if plan.size > free:
        raise LoraMMError(f"{folder.parent}: {plan.size / 1e9:.1f} GB to write, and {free / 1e9:.1f} GB free.")
    kept: dict[str, Tensor | None] = {}

    def tensor(name: str) -> Tensor | None:
        path, _, leaf = name.rpartition(".")
        module = get_unadapted_module(model, path)
        if path in changed and name not in kept:
            weight = get_dense_weight(module)
            own = weight.float() if weight.dtype != torch.float32 else weight.clone()
            made, bias = changed[path].merged(own, getattr(module, "bias", None))
            kept[f"{path}.weight"], kept[f"{path}.bias"] = made, bias
        if name in kept:
            return kept.pop(name)
        value: Tensor | None = get_dense_weight(module) if leaf == "weight" else getattr(module, leaf)
        return value

    plan.write(folder, tensor)
    base.processor.save_pretrained(folder)


@torch.no_grad()
def write_stock_lora(
    model: nn.Module, changed: Mapping[str, LayerChange], folder: Path, *, base: Base, dtype: torch.dtype
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    MMA before a layer W becomes down = A and up = W·B; a LoRA beside the layer goes next to it, and the ranks add up.
    Alpha is the rank everywhere, so the scale is exactly 1 also for readers that pass over ``alpha_pattern``.

    Args:
        model: the transformers model with the adapters on it.
        changed: what :func:`~.merging.collect_changes` found.
        folder: exists.
        base: what the LoRA is for.
        dtype: of the file.
    """
    updates = {
        path: change.update(get_dense_weight(get_unadapted_module(model, path)).float())
        for path, change in changed.items()
    }
    biased = any(update.bias is not None for update in updates.values())
    whole = find_trained_modules(model)
    tensors: dict[str, Tensor] = {}
    for path, update in updates.items():
        tensors[f"{path}.lora_A.weight"] = update.down.contiguous()
        tensors[f"{path}.lora_B.weight"] = update.up.contiguous()
        if biased:
            tensors[f"{path}.lora_B.bias"] = update.up.new_zeros(len(update.up)) if update.bias is None else update.bias
    for path in whole:
        tensors |= {f"{path}.{name}": value for name, value in get_unadapted_module(model, path).state_dict().items()}
    ranks = {path: len(update.down) for path, update in updates.items()}
    rank = max(ranks.values(), default=1)
    pattern = {path: own for path, own in ranks.items() if own != rank}
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules=sorted(ranks) or DUMMY_TARGET_MODULES,
        lora_bias=biased,
        modules_to_save=whole or None,
        base_model_name_or_path=base.name,
        revision=base.revision,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    # Copies: q, k and v share one down, and a file of safetensors shares nothing.
    plain = {f"base_model.model.{name}": value.to("cpu", dtype, copy=True) for name, value in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
