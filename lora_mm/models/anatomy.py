"""Finds the parts of a model with the rows of :mod:`.families`. Knows module paths; knows no adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lora_mm.errors import InputError
from lora_mm.models.families import Anatomy, find_family, match_part
from lora_mm.models.layer_roles import Path

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


def find_anatomy(config: PretrainedConfig) -> Anatomy:
    """Find the row for a transformers config, with the language stack of its language model.

    Raises:
        InputError: the family or its language model is not described; names those that are.
    """
    row = find_family(config.model_type)
    if not row.languages:
        return row
    language = config.text_config.model_type
    if language not in row.languages:
        raise InputError(
            f"{config.model_type} with a '{language}' language model is not described; take a checkpoint with "
            f"{' or '.join(row.languages)}."
        )
    return replace(row, language=row.languages[language])


def get_anatomy(model: nn.Module) -> Anatomy:
    """Get the row for ``model`` from its config; raises InputError when the family is not described."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) is None:
        return find_family(type(model).__name__)
    return find_anatomy(_get_config(model))


def get_model_type(model: nn.Module) -> str:
    """Get the model type in the config of ``model``, which names its family."""
    return str(_get_config(model).model_type)


def _get_config(model: nn.Module) -> PretrainedConfig:
    config: PretrainedConfig = getattr(model, "config")  # noqa: B009  torch types an attribute of a module as a tensor
    return config


def find_layers(model: nn.Module, part: str) -> list[str]:
    """Find the paths of the layers of ``part``, in order, without layers that the model never reads.

    Args:
        model: a transformers model.
        part: ``language`` or ``vision``.

    Raises:
        InputError: the part has no layers, or the model's layers are not where its family has them.
    """
    stack = get_anatomy(model).stack(part)
    paths = []
    for path in stack.layers:
        layers: Any = _find_submodule(model, path)
        if layers is None:
            raise InputError(
                f"This {get_model_type(model)} model has no '{path}': its {part} layers differ from those that its "
                "family's row describes."
            )
        paths += [f"{path}.{index}" for index in range(len(layers))]
    return paths[: stack.depth(_get_config(model))] if stack.depth else paths


def find_role_modules(model: nn.Module, part: str, role: str) -> list[str]:
    """Find the paths of the modules with ``role`` in the layers of ``part``, one for each layer that the model reads.

    Args:
        model: a transformers model.
        part: ``language`` or ``vision``.
        role: a key of ``Stack.roles``, such as ``attn_norm`` or ``q``.

    Raises:
        InputError: the part has no layers, its layers do not have the role, or a layer is of another kind.
    """
    roles = get_anatomy(model).stack(part).roles
    if role not in roles:
        raise InputError(f"The layers of '{part}' have no '{role}'; they have: {', '.join(roles)}.")
    return [_find_in_layer(model, layer, roles[role]) for layer in find_layers(model, part)]


def _find_in_layer(model: nn.Module, layer: str, path: Path) -> str:
    options = (path,) if isinstance(path, str) else path
    for option in options:
        if _find_submodule(model, f"{layer}.{option}") is not None:
            return f"{layer}.{option}"
    raise InputError(
        f"'{layer}' of this {get_model_type(model)} model has no {' or '.join(options)}: its layers differ from "
        "those that its family's row describes."
    )


def _find_submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def find_part(model: nn.Module, name: str) -> str:
    """Find the part that a module or parameter belongs to; ``other`` if it is in none.

    Args:
        model: a transformers model.
        name: path of the module or parameter in it.
    """
    return match_part(get_anatomy(model).parts, name)


def find_part_modules(model: nn.Module, part: str) -> list[str]:
    """Find the paths of the modules that make up ``part`` of this model.

    Bare parameters and modules that this model lacks are left out. A ``ModuleList`` is replaced by its items, because
    it is never called itself.

    Args:
        model: a transformers model.
        part: one of the family's parts, such as ``connector``.

    Raises:
        InputError: the family does not have the part.
    """
    parts: Mapping[str, tuple[str, ...]] = get_anatomy(model).parts
    if part not in parts:
        raise InputError(f"Unknown part '{part}'; the model has: {', '.join(parts)}.")
    paths = []
    for path in parts[part]:
        module: Any = _find_submodule(model, path)
        if type(module).__name__ == "ModuleList":
            paths += [f"{path}.{name}" for name, _ in module.named_children()]
        elif module is not None:
            paths.append(path)
    return paths


def get_placeholder_ids(model: nn.Module) -> dict[str, int]:
    """Get modality → id of its placeholder token, for the modalities whose token the model's config gives."""
    config = _get_config(model)
    ids: dict[str, int | None] = {
        name: getattr(config, source, None) if isinstance(source, str) else source(config)
        for name, source in get_anatomy(model).placeholders.items()
    }
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def list_modalities(model: nn.Module) -> tuple[str, ...]:
    """List the modalities that a sample can have: ``text``, then those whose placeholder token the config gives."""
    return ("text", *get_placeholder_ids(model))
