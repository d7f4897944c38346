"""Describes the anatomy of a base as plain data, for people and programs. Loads no weights."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle
from lora_mm.errors import InputError, suggest_name
from lora_mm.models.anatomy import Stack, get_anatomy, get_placeholder_ids
from lora_mm.models.families import FAMILIES
from lora_mm.models.loading import load_base_config, make_model_without_data


def describe_base(name: str, revision: str | None = None) -> dict[str, Any]:
    """Describe a base: its parts, the roles in its layers, how it sees pictures, and the methods that apply.

    Args:
        name: Hub id, folder, or ``pocket``.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError: the base cannot be loaded.
    """
    return _describe(load_base_config(name, revision), name)


def describe_model_type(model_type: str) -> dict[str, Any]:
    """Describe a model of the default configuration of its type, as :func:`describe_base` does.

    Raises:
        InputError: transformers does not know the type, or cannot make a model of its default configuration.
    """
    try:
        config = AutoConfig.for_model(model_type)
    except ValueError:
        raise InputError(
            f"transformers knows no models of type '{model_type}'.{suggest_name(model_type, list(FAMILIES))}"
        ) from None
    return _describe(config, model_type)


def _describe(config: PretrainedConfig, name: str) -> dict[str, Any]:
    model = make_model_without_data(name, config, {"dtype": torch.float32})
    anatomy = get_anatomy(model)
    family = anatomy.family
    return {
        "model_type": config.model_type,
        "tested": config.model_type in FAMILIES,
        "parts": {part: list(paths) for part, paths in anatomy.parts.items()},
        "layers": {"language": _describe_stack(anatomy.language), "vision": _describe_stack(anatomy.vision)},
        "placeholders": get_placeholder_ids(model),
        "visual_tokens": family.visual_tokens,
        "crops": family.crops,
        "framed": family.framed,
        "packed": family.packed,
        "methods": {
            name: {part: find_obstacle(name, family, part) for part in method.parts} for name, method in METHODS.items()
        },
    }


def _describe_stack(stack: Stack | None) -> dict[str, Any] | None:
    """Describe the layers of a part, in groups of layers with the same roles."""
    if stack is None:
        return None
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, (layer, roles) in enumerate(zip(stack.layers, stack.roles, strict=True)):
        inside = tuple((role, path.removeprefix(f"{layer}.")) for role, path in roles.items())
        groups.setdefault(inside, []).append(index)
    lists = dict.fromkeys(layer.rpartition(".")[0] for layer in stack.layers)
    kinds = [{"layers": _join_ranges(indices), "roles": dict(roles)} for roles, indices in groups.items()]
    return {"paths": list(lists), "read": len(stack.layers), "kinds": kinds}


def _join_ranges(indices: list[int]) -> str:
    """Write indices as ranges: 0 to 3, 5."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def explain_methods(methods: Mapping[str, Mapping[str, str | None]]) -> dict[str, dict[str, str]]:
    """Word the methods for people: part → ``applies``, or why it does not."""
    return {
        name: {part: f"does not apply, {reason}" if reason else "applies" for part, reason in parts.items()}
        for name, parts in methods.items()
    }
