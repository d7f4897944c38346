"""Finds the parts, layers and roles of a model. Knows module paths; knows no adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lora_mm.errors import InputError, suggest_name
from lora_mm.models.derive import count_layers_read, find_layer_lists, find_layer_roles, find_parts, find_submodule
from lora_mm.models.description import ModelDescription
from lora_mm.models.families import Family, find_family, match_part

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Stack:
    """The layers of one part that the model reads.

    Attributes:
        layers: paths of the layers, in order.
        roles: the roles of each layer: role → path from the model's root (see :mod:`.layer_roles`).
    """

    layers: tuple[str, ...]
    roles: tuple[Mapping[str, str], ...]

    @property
    def known_roles(self) -> tuple[str, ...]:
        """The roles that at least one layer has."""
        return tuple(dict.fromkeys(role for layer in self.roles for role in layer))


@dataclass(frozen=True)
class Anatomy:
    """Where everything is in one model.

    Attributes:
        family: what is true of its family.
        parts: part → path prefixes of its modules; the longest prefix that matches decides.
        language: the language model's layers.
        vision: the vision tower's layers; None for a model without a tower, or with one of unknown layers.
        description: the user's description of the model, if there is one.
        other_readers: path of a norm → modules that read its output and have no role, as :mod:`.data_flow` finds them.
    """

    family: Family
    parts: Mapping[str, tuple[str, ...]]
    language: Stack | None
    vision: Stack | None
    description: ModelDescription | None = None
    other_readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def stack(self, part: str) -> Stack:
        """Get the layers of ``part`` (``language`` or ``vision``).

        Raises:
            InputError: the part has no layers, or the model does not have it.
        """
        stacks = {"language": self.language, "vision": self.vision}
        if part not in stacks:
            raise InputError(
                f"No layers in part '{part}': adapters go to 'language' or 'vision'.{suggest_name(part, [*stacks])}"
            )
        stack = stacks[part]
        if stack is None and part not in self.parts:
            raise InputError(f"This model has no part '{part}'; place the adapter in another part.")
        if stack is None:
            raise InputError(
                f"The layers of part '{part}' ({', '.join(self.parts[part])}) have no names that lora-mm knows.",
                f"Describe them in the recipe, base.anatomy={{{part}: {{layers: […], roles: {{…}}}}}} (`lora-mm models "
                f"show --model BASE` prints what was found), or place adapters in another part.",
            )
        return stack


_ANATOMIES: WeakKeyDictionary[nn.Module, Anatomy] = WeakKeyDictionary()
"""Model → its anatomy, which does not change when adapters are put on the model."""


def get_anatomy(model: nn.Module, description: ModelDescription | None = None) -> Anatomy:
    """Get the anatomy of a model, found once for each model.

    Args:
        model: a transformers model.
        description: the user's description of the model (see :func:`~.families.find_family`). It stays with the model.

    Raises:
        InputError: ``model`` is not a transformers model, or a described module does not exist.
    """
    found = _ANATOMIES.get(model)
    if found is None or description is not None:
        found = _find_anatomy(model, description)
        _ANATOMIES[model] = found
    return found


def correct_anatomy(model: nn.Module, anatomy: Anatomy) -> None:
    """Replace the anatomy of a model by what a forward pass showed."""
    _ANATOMIES[model] = anatomy


def _find_anatomy(model: Any, description: ModelDescription | None) -> Anatomy:
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) is None or not hasattr(model, "get_decoder"):
        raise InputError(f"A {type(model).__name__} is not a model of transformers: adapters need one with its config.")
    family = find_family(config.model_type, description)
    parts = {**find_parts(model), **family.parts}
    language, vision = (_find_stack(model, family, parts, part) for part in ("language", "vision"))
    return Anatomy(family, parts, language, vision, description)


def _find_stack(model: Any, family: Family, parts: Mapping[str, tuple[str, ...]], part: str) -> Stack | None:
    others = tuple(path for other, paths in parts.items() if other != part for path in paths)
    lists = family.layers.get(part) or find_layer_lists(model, parts.get(part, ()), others)
    paths: list[str] = []
    for path in lists:
        layers: Any = find_submodule(model, path)
        if layers is None:
            raise InputError(f"base.anatomy: this {model.config.model_type} model has no '{path}', its {part} layers.")
        paths += [f"{path}.{index}" for index in range(len(layers))]
    if part == "vision":
        paths = paths[: count_layers_read(model.config, len(paths))]
    given = family.roles.get(part, {})
    roles = [find_layer_roles(model.get_submodule(path), given) for path in paths]
    missing = [f"{role}: {path}" for role, path in given.items() if not any(found.get(role) == path for found in roles)]
    if missing:
        raise InputError(f"base.anatomy: no {part} layer of this {model.config.model_type} model has {missing[0]}.")
    located = (
        {role: f"{layer}.{path}" for role, path in found.items()} for layer, found in zip(paths, roles, strict=True)
    )
    return Stack(tuple(paths), tuple(located)) if lists else None


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
        InputError: the part has no layers that are known.
    """
    return list(get_anatomy(model).stack(part).layers)


def find_role_modules(model: nn.Module, part: str, role: str) -> list[str]:
    """Find the paths of the modules with ``role``, one for each layer of ``part`` that has it.

    Args:
        model: a transformers model.
        part: ``language`` or ``vision``.
        role: one of :data:`~.layer_roles.ROLE_PATHS`, such as ``attn_norm`` or ``q``.

    Raises:
        InputError: the part has no layers that are known, or none of them has the role.
    """
    stack = get_anatomy(model).stack(part)
    if role not in stack.known_roles:
        raise InputError(f"The layers of '{part}' have no '{role}'; they have: {', '.join(stack.known_roles)}.")
    return [roles[role] for roles in stack.roles if role in roles]


def find_experts(model: nn.Module, excluded: Sequence[str] = ()) -> list[str]:
    """Find the paths of the modules that hold the fused experts of a mixture, without those in ``excluded`` parts."""
    anatomy = get_anatomy(model)
    stacks = {"language": anatomy.language, "vision": anatomy.vision}
    return [
        roles["experts"]
        for part, stack in stacks.items()
        if stack is not None and part not in excluded
        for roles in stack.roles
        if "experts" in roles
    ]


def find_part(model: nn.Module, name: str) -> str:
    """Find the part that a module or parameter belongs to; ``other`` if it is in none.

    Args:
        model: a transformers model.
        name: path of the module or parameter in it.
    """
    return match_part(get_anatomy(model).parts, name)


def find_part_modules(model: nn.Module, part: str) -> list[str]:
    """Find the paths of the modules that make up ``part`` of this model.

    Bare parameters are left out (:func:`find_part_parameters`). A ``ModuleList`` is replaced by its items, because it
    is never called itself.

    Args:
        model: a transformers model.
        part: one of the model's parts, such as ``connector``.

    Raises:
        InputError: the model does not have the part.
    """
    parts: Mapping[str, tuple[str, ...]] = get_anatomy(model).parts
    if part not in parts:
        raise InputError(f"Unknown part '{part}'; the model has: {', '.join(parts)}.")
    paths = []
    for path in parts[part]:
        module: Any = find_submodule(model, path)
        if type(module).__name__ == "ModuleList":
            paths += [f"{path}.{name}" for name, _ in module.named_children()]
        elif module is not None:
            paths.append(path)
    return paths


def find_part_parameters(model: nn.Module, part: str) -> list[str]:
    """Find the paths of the bare parameters of ``part``, which belong to no module of it.

    Args:
        model: a transformers model.
        part: one of the model's parts, such as ``connector``.
    """
    bare = {name for name, _ in model.named_parameters()}
    return [path for path in get_anatomy(model).parts.get(part, ()) if path in bare]


def get_placeholder_ids(model: nn.Module) -> dict[str, int]:
    """Get modality → id of its placeholder token, for the modalities whose token the model's config gives."""
    config = _get_config(model)
    ids: dict[str, int | None] = {
        name: getattr(config, source, None) if isinstance(source, str) else source(config)
        for name, source in get_anatomy(model).family.placeholders.items()
    }
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def list_modalities(model: nn.Module) -> tuple[str, ...]:
    """List the modalities that a sample can have: ``text``, then those whose placeholder token the config gives."""
    return ("text", *get_placeholder_ids(model))
