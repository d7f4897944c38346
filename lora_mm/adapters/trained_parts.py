"""Parts of a model that an adapter trains whole, beside its low-rank updates. Knows PEFT; knows no placements."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import peft
import torch
from torch import nn

from lora_mm.models.anatomy import find_part_modules, find_part_parameters


def find_trained_paths(model: nn.Module, parts: Iterable[str]) -> list[str]:
    """Find the paths of the modules of ``parts``, without those inside another (Qwen's connector is in its tower).

    Args:
        model: the base, without adapters.
        parts: names such as ``connector`` or ``head``.

    Raises:
        InputError: the model does not have a part.
    """
    paths = [path for part in parts for path in find_part_modules(model, part)]
    return [path for path in dict.fromkeys(paths) if not any(path.startswith(f"{other}.") for other in paths)]


def find_trained_parameters(model: nn.Module, parts: Iterable[str]) -> list[str]:
    """Find the paths of the bare parameters of ``parts``.

    Args:
        model: the base, without adapters.
        parts: names such as ``connector`` or ``head``.
    """
    return list(dict.fromkeys(path for part in parts for path in find_part_parameters(model, part)))


def train_whole_in_fp32(model: peft.PeftModel, adapter_name: str = "default") -> None:
    """Keep the parts that an adapter trains whole in fp32, whatever the dtype of the base.

    Their inputs are cast to fp32 and their outputs back. The base's own copies stay as they are, so with the adapter
    disabled the base computes what it always did.

    Args:
        model: the base with the adapter on it.
        adapter_name: PEFT's name for the adapter.
    """
    base: Any = model.get_base_model()
    for path in getattr(model.peft_config[adapter_name], "modules_to_save", None) or []:
        module = base.get_submodule(path).modules_to_save[adapter_name]
        module.float()
        module.register_forward_pre_hook(_cast_inputs, with_kwargs=True)
        module.register_forward_hook(functools.partial(_cast_output, base.dtype))


def _cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return _cast((args, kwargs), torch.float32)


def _cast_output(dtype: torch.dtype, module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast all floating-point tensors in ``value``, at any depth of tuples and mappings."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):  # model outputs are mappings too
        return type(value)(**{name: _cast(item, dtype) for name, item in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, dtype) for item in value)
    return value
