"""Writes an adapted model for readers without lora-mm: as merged base weights, or as a stock PEFT LoRA.

Knows changes and files; knows no methods and verifies nothing.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.constants import DUMMY_TARGET_MODULES, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_mm.adapters.trained_parameter import TrainedParameter
from lora_mm.errors import InputError, LoraMMError
from lora_mm.merging.changes import LayerChange
from lora_mm.merging.collect import find_trained_modules, get_dense_weight, get_unadapted_module
from lora_mm.merging.shards import CheckpointPlan
from lora_mm.models.loading import Base


@torch.no_grad()
def write_model(
    model: Any, changes: Mapping[str, LayerChange], folder: Path, *, base: Base, dtype: torch.dtype
) -> None:
    """Write ``model`` with the changes merged into its weights, as a plain transformers checkpoint.

    A quantised base is dequantised to the weights that the adapter was trained on, and never quantised again. Memory
    holds one shard beside the model.

    Args:
        model: transformers model with the adapters on it.
        changes: path of a linear layer → its change, from :func:`~lora_mm.merging.collect.collect_changes`.
        folder: an existing folder.
        base: the base of ``model``; its processor is saved too.
        dtype: of the files.

    Raises:
        InputError: a layer needs a bias that no config of the family can give it.
        LoraMMError: not enough disk space.
    """
    plan = check_biases(model, changes, dtype)
    free = shutil.disk_usage(folder).free
    if plan.total_bytes > free:
        raise LoraMMError(
            f"{folder.parent}: needs {plan.total_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free."
        )
    merged: dict[str, Tensor | None] = {}

    def get_tensor(name: str) -> Tensor | None:
        path, _, leaf = name.rpartition(".")
        module = get_unadapted_module(model, path)
        if path in changes and name not in merged:  # weight and bias are merged together, and kept until requested
            weight = get_dense_weight(module)
            weight = weight.float() if weight.dtype != torch.float32 else weight.clone()
            merged[f"{path}.weight"], merged[f"{path}.bias"] = changes[path].merge_into(
                weight, getattr(module, "bias", None)
            )
        if name in merged:
            return merged.pop(name)
        value: Tensor | None = get_dense_weight(module) if leaf == "weight" else getattr(module, leaf)
        return value

    plan.write(folder, get_tensor)
    base.processor.save_pretrained(folder)


def check_biases(model: Any, changes: Mapping[str, LayerChange], dtype: torch.dtype) -> CheckpointPlan:
    """Plan the checkpoint of the merged model, and check that its config has a place for every bias.

    Args:
        model: transformers model with the adapters on it.
        changes: path of a linear layer → its change.
        dtype: of the files.

    Raises:
        InputError: a layer needs a bias that no config of the family can give it.
    """
    biased = [path for path, change in changes.items() if change.needs_bias]
    plan = CheckpointPlan(model, dtype, biased=biased, untied=find_trained_modules(model))
    if plan.lacking_bias:
        raise InputError(
            f"The adapter has biases, but {plan.lacking_bias[0]} ({len(plan.lacking_bias)} such layers) has none, and "
            f"no config of '{model.config.model_type}' gives it one: transformers would drop them.",
            "Write a stock LoRA, which holds biases (--as lora), or train without biases (adapters.N.bias=false).",
        )
    return plan


@torch.no_grad()
def write_stock_lora(
    model: nn.Module, changes: Mapping[str, LayerChange], folder: Path, *, base: Base, dtype: torch.dtype
) -> None:
    """Write the changes as a stock PEFT LoRA: ``adapter_config.json`` and ``adapter_model.safetensors``.

    MMA before a layer W becomes down = A and up = W·B; a LoRA beside the layer is appended, and the ranks add up.
    Alpha equals the rank everywhere, so the scale is exactly 1 also for readers that ignore ``alpha_pattern``.

    Args:
        model: transformers model with the adapters on it.
        changes: path of a linear layer → its change, from :func:`~lora_mm.merging.collect.collect_changes`.
        folder: an existing folder.
        base: the base of ``model``, named in the config.
        dtype: of the file.

    Raises:
        InputError: the adapter trains a bare parameter, which a stock LoRA has no place for.
    """
    bare = [module.name for module in model.modules() if isinstance(module, TrainedParameter)]
    if bare:
        raise InputError(
            f"A stock LoRA cannot hold the trained parameter {bare[0]}; merge into the base (--as model), or keep the "
            "adapter."
        )
    updates = {
        path: change.as_update(get_dense_weight(get_unadapted_module(model, path)).float())
        for path, change in changes.items()
    }
    biased = any(update.bias is not None for update in updates.values())
    trained_whole = find_trained_modules(model)
    tensors: dict[str, Tensor] = {}
    for path, update in updates.items():
        tensors[f"{path}.lora_A.weight"] = update.down.contiguous()
        tensors[f"{path}.lora_B.weight"] = update.up.contiguous()
        if biased:
            tensors[f"{path}.lora_B.bias"] = update.up.new_zeros(len(update.up)) if update.bias is None else update.bias
    for path in trained_whole:
        tensors |= {f"{path}.{name}": value for name, value in get_unadapted_module(model, path).state_dict().items()}
    ranks = {path: len(update.down) for path, update in updates.items()}
    rank = max(ranks.values(), default=1)
    rank_pattern = {path: layer_rank for path, layer_rank in ranks.items() if layer_rank != rank}
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=rank_pattern,
        alpha_pattern=dict(rank_pattern),
        target_modules=sorted(ranks) or DUMMY_TARGET_MODULES,
        lora_bias=biased,
        modules_to_save=trained_whole or None,
        base_model_name_or_path=base.name,
        revision=base.revision,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    # Copies: q, k and v share one `down`, but tensors in a safetensors file must not share memory.
    copies = {f"base_model.model.{name}": value.to("cpu", dtype, copy=True) for name, value in tensors.items()}
    save_file(copies, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
