"""Where the parts of a given model are: the rows of ``families`` put to use. Knows module paths; knows no adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lora_mm.errors import InputError
from lora_mm.models.families import FAMILIES, PARTS, Anatomy, Path, Stack, find_family, match_part

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "FAMILIES",
    "PARTS",
    "Anatomy",
    "Stack",
    "find_anatomy",
    "find_layers",
    "find_part",
    "find_part_modules",
    "find_role_modules",
    "get_anatomy",
    "get_placeholder_ids",
    "list_modalities",
]


def find_anatomy(config: Any) -> Anatomy:
    """The row for a transformers config, with the language stack of its own language model.

    Raises:
        InputError: when the family, or its language model, is not described; says what is.
    """
    row = find_family(config.model_type)
    if not row.languages:
        return row
    inner = config.text_config.model_type
    if inner not in row.languages:
        raise InputError(
            f"{config.model_type} with a '{inner}' language model is not described; with {' or '.join(row.languages)} "
            "it is. Take a checkpoint with one of those."
        )
    return replace(row, language=row.languages[inner])


def get_anatomy(model: nn.Module) -> Anatomy:
    """The row for ``model``, by its config; raises InputError when the family is not described."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) is None:
        return find_family(type(model).__name__)
    return find_anatomy(config)


def find_layers(model: nn.Module, part: str) -> list[str]:
    """Paths of the layers of ``part``, in order, as far as the model reads them.

    Raises:
        InputError: for a part without layers, or a model whose layers are not where its family has them.
    """
    stack = get_anatomy(model).stack(part)
    paths = []
    for path in stack.layers:
        layers: Any = _submodule(model, path)
        if layers is None:
            raise InputError(
                f"This {model.config.model_type} model has no '{path}': its {part} layers are of a kind that the "
                "anatomy does not describe."
            )
        paths += [f"{path}.{index}" for index in range(len(layers))]
    return paths[: stack.depth(model.config)] if stack.depth else paths


def find_role_modules(model: nn.Module, part: str, role: str) -> list[str]:
    """Paths of the modules that play ``role`` in the layers of ``part``, one a layer, as far as the model reads them.

    Raises:
        InputError: for a part without layers, a role that its layers do not have, or a layer of another build.
    """
    roles = get_anatomy(model).stack(part).roles
    if role not in roles:
        raise InputError(f"The layers of '{part}' have no '{role}'; they have: {', '.join(roles)}.")
    return [_within(model, layer, roles[role]) for layer in find_layers(model, part)]


def _within(model: nn.Module, layer: str, path: Path) -> str:
    options = (path,) if isinstance(path, str) else path
    for option in options:
        if _submodule(model, f"{layer}.{option}") is not None:
            return f"{layer}.{option}"
    raise InputError(
        f"'{layer}' of this {model.config.model_type} model has no {' or '.join(options)}: its layers are of a kind "
        "that the anatomy does not describe."
    )


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def find_part(model: nn.Module, name: str) -> str:
    """The part that the module or parameter called ``name`` belongs to; ``other`` when it is in none."""
    return match_part(get_anatomy(model).parts, name)


def find_part_modules(model: nn.Module, part: str) -> list[str]:
    """Paths of the modules that make up ``part`` of this model; bare parameters and what it lacks are passed over.

    A list of modules goes by its items, as it is never called itself.

    Raises:
        InputError: for a part that the family does not have.
    """
    parts: Mapping[str, tuple[str, ...]] = get_anatomy(model).parts
    if part not in parts:
        raise InputError(f"Unknown part '{part}'; the model has: {', '.join(parts)}.")
    paths = []
    for path in parts[part]:
        module: Any = _submodule(model, path)
        if type(module).__name__ == "ModuleList":
            paths += [f"{path}.{name}" for name, _ in module.named_children()]
        elif module is not None:
            paths.append(path)
    return paths


def get_placeholder_ids(model: nn.Module) -> dict[str, int]:
    """Modality → id of its placeholder token, for the modalities whose token the model's config tells."""
    config = model.config
    found: dict[str, int | None] = {
        name: getattr(config, where, None) if isinstance(where, str) else where(config)
        for name, where in get_anatomy(model).placeholders.items()
    }
    return {name: token_id for name, token_id in found.items() if token_id is not None}


def list_modalities(model: nn.Module) -> tuple[str, ...]:
    """What a sample of this model can be: ``text``, then each modality whose placeholder token the model knows."""
    return ("text", *get_placeholder_ids(model))
