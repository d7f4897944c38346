"""Writes an adapter folder, and loads it onto the base it was trained on with a check of every tensor.

Knows files, bases and PEFT. Knows no recipe, no data and no scores: a recipe comes in as text.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.adapters.trained_parts import train_whole_in_fp32
from lora_mm.artifact.files import (
    CONFIG,
    PREPROCESSING,
    RECIPE,
    WEIGHTS,
    check_adapter_folder,
    check_dtypes,
    read_tensor_shapes,
)
from lora_mm.artifact.peft_config import list_sizes, load_peft_config
from lora_mm.artifact.preprocessing import Mismatch, check_mismatches, write_preprocessing
from lora_mm.atomic import write_in_order
from lora_mm.errors import InputError, LoraMMError, truncate_faults
from lora_mm.hub_access import root_cause
from lora_mm.models.loading import Base
from lora_mm.models.picture_fit import Fit
from lora_mm.ops.kernel_choice import Kernels


def save_adapter(
    model: peft.PeftModel,
    folder: Path,
    *,
    base: Base,
    recipe: str,
    fit: Fit = "processor",
    special_tokens: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write all but model card and scores to ``folder``: config, weights, resolved recipe, base and preprocessing.

    Each file is whole or not there, and the weights come last: a process that is killed leaves no half adapter.

    Args:
        model: as :func:`~lora_mm.adapters.attach.attach` returns it.
        folder: created if it does not exist.
        base: the base that the adapter was trained on.
        recipe: the resolved recipe, as YAML.
        fit: how pictures were fitted before the base's processor.
        special_tokens: special tokens that texts could spell.
        dtype: of the tensors in the file. Round the model to it first (:func:`round_adapter_weights`), or the saved
            adapter differs from the model.
    """
    model.peft_config["default"].base_model_name_or_path = base.name
    model.peft_config["default"].revision = base.revision
    with write_in_order(folder, (CONFIG, RECIPE, PREPROCESSING, WEIGHTS)) as new:
        model.save_pretrained(str(new), save_embedding_layers=False)
        if dtype != torch.float32:
            tensors = {name: tensor.to(dtype) for name, tensor in load_file(str(new / WEIGHTS)).items()}
            save_file(tensors, str(new / WEIGHTS), metadata={"format": "pt"})
        (new / RECIPE).write_text(recipe, encoding="utf-8")
        write_preprocessing(new, base, fit, special_tokens)


def round_adapter_weights(model: peft.PeftModel, dtype: torch.dtype) -> None:
    """Round all trainable parameters to ``dtype``, so that the model computes what the saved adapter will.

    Args:
        model: the base with the adapter on it; parameters keep their dtype.
        dtype: of the file.

    Raises:
        LoraMMError: a value is too large for ``dtype``; names the tensor.
    """
    if dtype == torch.float32:
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rounded = parameter.data.to(dtype)
            if not rounded.isfinite().all():
                raise LoraMMError(f"save_dtype: {name} holds values too large for {dtype}; use bfloat16 or float32.")
            parameter.data.copy_(rounded)


def load_adapter(
    base: Base,
    folder: Path,
    name: str = "default",
    *,
    onto: peft.PeftModel | None = None,
    accept: Collection[Mismatch] = (),
    fit: Fit | None = None,
    special_tokens: Sequence[str] | None = None,
    kernels: Kernels = "auto",
) -> peft.PeftModel:
    """Load an adapter onto its base, for inference.

    Args:
        base: the base to put the adapter on.
        folder: the adapter's folder.
        name: PEFT's name for the adapter; different from those already on the base.
        onto: ``base`` with adapters of the same PEFT type, to add this one to. The active one stays active
            (``onto.set_adapter(name)`` switches).
        accept: mismatches to warn of instead of refusing.
        fit: how pictures will be fitted before the base's processor; None does not compare it with training.
        special_tokens: special tokens that texts may spell; None does not compare them with training.
        kernels: how the adapters' operations run (see :func:`~lora_mm.adapters.attach.attach`); ``onto`` keeps its own.

    Returns:
        The base with the adapter on it; ``onto`` if given.

    Raises:
        InputError: not an adapter folder, another base or preprocessing, a PEFT type that ``onto`` cannot take, or
            missing, unexpected or misshapen tensors (each named).
    """
    check_adapter_folder(folder)
    check_mismatches(base, folder, accept, fit, special_tokens)
    if onto is not None:
        return put_adapter(onto, folder, name)
    model = put_adapter(base.model, folder, name)
    set_kernels(model, kernels)
    return model


def put_adapter(model: Any, folder: Path, name: str = "default") -> peft.PeftModel:
    """Load an adapter onto a model, for inference, without comparing base and preprocessing.

    Args:
        model: a transformers model, or a ``PeftModel`` with adapters of the same PEFT type, to add this one to.
        folder: holds at least PEFT's config and the weights; nothing else in it is read.
        name: PEFT's name for the adapter; different from those already on the model.

    Returns:
        The model with the adapter on it; ``model`` if that is a ``PeftModel``.

    Raises:
        InputError: a config that cannot be read, a PEFT type that ``model`` cannot take, or missing, unexpected or
            misshapen tensors, or tensors with values that are not finite numbers (each named).
    """
    config = load_peft_config(folder)
    tensors = _load_tensors(folder / WEIGHTS)
    _check_sizes(folder, config, tensors)
    # Tensors are checked below, because PEFT loads those that fit and ignores the rest.
    model = _add_adapter(model, config, name, folder)
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    faults = _compare_tensors(tensors, expected)
    if faults:
        model.delete_adapter(name)
        raise InputError(f"{folder / WEIGHTS}: does not fit its config on this base:", *truncate_faults(faults))
    set_peft_model_state_dict(model, tensors, adapter_name=name)
    model.eval()
    return model


def load_adapters(base: Base, folders: Sequence[Path], kernels: Kernels = "auto") -> nn.Module:
    """Load several adapters onto one base, all active together, in this order.

    Args:
        base: the base to put the adapters on.
        folders: the adapters' folders, of any PEFT types.
        kernels: how the adapters' operations run.

    Returns:
        ``base.model``, with PEFT's layers in it.

    Raises:
        InputError: as for :func:`load_adapter`.
    """
    names = [f"adapter{number}" for number in range(len(folders))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT warns about adapters that are already on the model
        for name, folder in zip(names, folders, strict=True):
            load_adapter(base, folder, name, kernels=kernels)
    for module in base.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(names)
        elif isinstance(module, ModulesToSaveWrapper):
            module.set_adapter([name for name in names if name in module.modules_to_save])
    return base.model


def _add_adapter(model: Any, config: peft.PeftConfig, name: str, folder: Path) -> peft.PeftModel:
    """Add an adapter to ``model``; its weights are loaded later."""
    if isinstance(model, peft.PeftModel) and config.peft_type != model.peft_type:
        new, present = peft.PeftType(config.peft_type).value, peft.PeftType(model.peft_type).value
        raise InputError(
            f"{folder}: is a {new} adapter, but those already on the base are {present}, and PEFT takes one type at a "
            "time (plain LoRA is LORA, all other methods are ROUTED). Load it on its own."
        )
    try:
        if isinstance(model, peft.PeftModel):
            model.add_adapter(name, config)
        else:
            model = peft.PeftModel(model, config, adapter_name=name)
        train_whole_in_fp32(model, name)  # as in training; rounded to the base's dtype they would score differently
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # PEFT's, such as for a target that is not there
        raise InputError(f"{folder / CONFIG}: does not fit this base: {root_cause(error)}") from error
    return model


def _check_sizes(folder: Path, config: peft.PeftConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config that asks for larger weights than those in the file, before PEFT makes them."""
    largest = max((dimension for tensor in tensors.values() for dimension in tensor.shape), default=0)
    asked = max(list_sizes(config), default=0)
    if asked > largest:
        raise InputError(f"{folder}: {CONFIG} asks for rank {asked:,}, but no tensor in {WEIGHTS} has that size.")


def _compare_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """One line for each missing, unexpected or misshapen tensor."""
    faults = [f"missing tensor {name}" for name in expected if name not in tensors]
    faults += [f"unexpected tensor {name}" for name in tensors if name not in expected]
    faults += [
        f"tensor {name} is {tuple(tensors[name].shape)}, the model's is {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    return faults


def _load_tensors(file: Path) -> dict[str, Tensor]:
    """Load the tensors; raises InputError for a damaged file, and names tensors of other types and with NaN or inf."""
    check_dtypes(file, read_tensor_shapes(file))
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a complete safetensors file: {error}.") from error
    faults = [name for name, tensor in sorted(tensors.items()) if not tensor.isfinite().all()]
    if faults:
        raise InputError(
            f"{file}: holds values that are not finite numbers (NaN or infinite):", *truncate_faults(faults)
        )
    return tensors
