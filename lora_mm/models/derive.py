"""Finds the parts and layers of a model by the conventions of transformers. Knows module trees; knows no families.

The conventions: ``get_decoder`` is the language model, ``get_encoder`` the tower of a modality, and
``get_output_embeddings`` the head. Layers stand in a ``ModuleList``, and their modules have the names of
:mod:`.layer_roles`. What belongs to no other part is the connector.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from lora_mm.models.layer_roles import find_roles

_CONNECTORS = (
    *("merger", "deepstack_merger_list", "downsample", "patch_merger", "connector", "projector", "aligner"),
    *("resampler", "vit_merger"),
)
"""Names of modules that are connectors although they stand in the tower."""

_MIXERS = ("q", "qkv", "o")
"""Roles of which a layer of a tower or a language model has at least one."""


def find_submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Find a module by its path; None if there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def find_parts(model: Any) -> dict[str, tuple[str, ...]]:
    """Find part → path prefixes of its modules and bare parameters; the longest prefix that matches decides.

    Args:
        model: a transformers model.
    """
    found = {
        "head": _find_path(model, model.get_output_embeddings()),
        "vision": _find_tower(model, "image"),
        "audio": _find_tower(model, "audio"),
    }
    taken = {path for path in found.values() if path}
    language = _climb(model, _find_path(model, model.get_decoder()) or "", found["head"])
    taken |= {language}
    parts: dict[str, tuple[str, ...]] = {part: (path,) for part, path in found.items() if path}
    parts["language"] = (language,)
    inside = tuple(_list_connectors_inside(model, parts.get("vision", ())))
    connector = (*_list_rest(model, "", taken), *inside)
    if connector:
        parts["connector"] = connector
    return parts


def _find_path(model: nn.Module, module: nn.Module | None) -> str | None:
    """The path of a module in the model; None if it is not in it, or is the model itself."""
    return next((path for path, other in model.named_modules() if other is module), "") or None


def _find_tower(model: Any, modality: str) -> str | None:
    """The path of the tower of a modality, where the model has one of its own."""
    try:
        tower = model.get_encoder(modality=modality)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None
    path = _find_path(model, tower)
    is_whole = path is None or path == model.base_model_prefix or tower is model.get_decoder()
    return None if is_whole else path


def _climb(model: nn.Module, path: str, head: str | None) -> str:
    """The path of the outermost module that holds the language model and nothing else, except the head."""
    while "." in path:
        parent = path.rpartition(".")[0]
        children = model.get_submodule(parent).named_children()
        if {f"{parent}.{name}" for name, child in children if _has_weights(child)} - {path, head}:
            break
        path = parent
    return path


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _list_rest(model: nn.Module, path: str, taken: set[str]) -> Iterator[str]:
    """List modules with weights, and bare parameters, that are neither in ``taken`` nor hold any of them."""
    module = model.get_submodule(path)
    prefix = f"{path}." if path else ""
    yield from (prefix + name for name, _ in module.named_parameters(recurse=False))
    for name, child in module.named_children():
        inner = prefix + name
        if inner in taken or not _has_weights(child):
            continue
        if any(other.startswith(f"{inner}.") for other in taken):
            yield from _list_rest(model, inner, taken)
        else:
            yield inner


def _list_connectors_inside(model: nn.Module, towers: tuple[str, ...]) -> Iterator[str]:
    for tower in towers:
        for name in _CONNECTORS:
            module = find_submodule(model, f"{tower}.{name}")
            if module is not None and _has_weights(module):
                yield f"{tower}.{name}"


def find_layer_lists(model: nn.Module, roots: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Find the paths of the ``ModuleList`` objects that hold the layers of a part, nearest to its root.

    Args:
        model: a transformers model.
        roots: path prefixes of the part.
        others: path prefixes of the other parts, which are passed over.
    """
    lists = [
        path
        for root in roots
        for path, module in _list_modules(model, root)
        if isinstance(module, nn.ModuleList) and len(module) and _mixes_tokens(module[0])
        if not any(path == other or path.startswith(f"{other}.") for other in others)
    ]
    depth = min((path.count(".") for path in lists), default=0)
    return tuple(path for path in lists if path.count(".") == depth)


def _list_modules(model: nn.Module, root: str) -> Iterator[tuple[str, nn.Module]]:
    module = find_submodule(model, root)
    return (
        iter(())
        if module is None
        else ((f"{root}.{path}" if path else root, inner) for path, inner in module.named_modules())
    )


def _mixes_tokens(layer: nn.Module) -> bool:
    return any(role in find_layer_roles(layer, {}) for role in _MIXERS)


def find_layer_roles(layer: nn.Module, given: Mapping[str, str]) -> dict[str, str]:
    """Find the roles of a layer: role → path inside the layer.

    Args:
        layer: a layer of a tower or a language model.
        given: roles that have another path in this family; they take precedence where the layer has the path.
    """
    roles = find_roles(lambda path: find_submodule(layer, path) is not None)
    return roles | {role: path for role, path in given.items() if find_submodule(layer, path) is not None}


def count_layers_read(config: Any, total: int) -> int:
    """Count the layers of the tower below the deepest hidden state that is read (hidden state 0 is the embedding).

    Args:
        config: of the whole model; ``vision_feature_layer`` or ``vision_feature_layers`` says what is read, if there.
        total: number of layers of the tower.
    """
    read = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", None))  # VipLLaVA's
    if not isinstance(read, int | list | tuple) or read == []:
        return total
    indices = [read] if isinstance(read, int) else read
    return max(index if index >= 0 else total + 1 + index for index in indices)
