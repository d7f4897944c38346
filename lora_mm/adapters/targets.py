"""Decides which module of a model gets which placement. Knows modules and placements; changes neither."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lora_mm.adapters.layers import RoutedLayer, get_feature_sizes
from lora_mm.adapters.placement import Placement, ResolvedPlacement
from lora_mm.adapters.support import find_obstacle, list_methods
from lora_mm.errors import InputError
from lora_mm.models.anatomy import find_layers, find_role_modules, get_anatomy, get_model_type
from lora_mm.models.families import Stack


@dataclass(frozen=True)
class Target:
    """A module that is adapted.

    Attributes:
        placement: the placement that adapts it.
        role: its role in its layer (see ``Stack.roles``).
        layer: path of its layer.
        residual: path of the norm whose input the update reads in place of the module's own; None for the module's own.
    """

    placement: ResolvedPlacement
    role: str
    layer: str
    residual: str | None = None


def resolve_targets(model: nn.Module, placements: Iterable[Placement]) -> dict[str, Target]:
    """Find the modules of ``model`` that the placements adapt.

    Args:
        model: the transformers model; it may have routed layers on it already.
        placements: the placements of one adapter.

    Returns:
        Module path → its target.

    Raises:
        InputError: names every fault: a method that does not apply to the family, a layer index beyond the model, a
            placement that matches nothing or does not fit a module's width, two placements on one module.
    """
    targets: dict[str, Target] = {}
    faults: list[str] = []
    for placement in placements:
        item = placement.resolve()
        try:
            new = _find_targets(model, item)
        except InputError as error:
            faults += error.faults
            continue
        taken = [path for path in new if path in targets]
        if taken:
            more = f" and on {len(taken) - 1} more" if len(taken) > 1 else ""
            faults.append(
                f"Two adapters on one module, {taken[0]}{more}: {targets[taken[0]].placement} and {item}; "
                "give each its own part, site or layers."
            )
        targets |= new
    if faults:
        raise InputError(*faults)
    return targets


def _find_targets(model: nn.Module, item: ResolvedPlacement) -> dict[str, Target]:
    """The targets of one placement."""
    stack = get_anatomy(model).stack(item.part)
    _check_support(model, item)
    layers = find_layers(model, item.part)
    every = range(0, len(layers), 2 if item.layers == "even" else 1)
    indices = item.layers if isinstance(item.layers, tuple) else every
    beyond = [index for index in indices if not 0 <= index < len(layers)]
    if beyond:
        raise InputError(
            f"{item}: layers {beyond} do not exist or are never read; the model reads layers 0 to {len(layers) - 1}."
        )
    targets: dict[str, Target] = {}
    for role in [role for role in item.roles if role in stack.roles]:
        paths, norm_role = find_role_modules(model, item.part, role), item.row.residual.get(role)
        norms = find_role_modules(model, item.part, norm_role) if norm_role else [None] * len(paths)
        targets |= {paths[index]: Target(item, role, layers[index], norms[index]) for index in indices}
    if not targets:
        raise InputError(f"{item} matches no module of this model: {_explain_no_match(item, stack)}.")
    _check_widths(model, item, targets)
    return targets


def _check_support(model: nn.Module, item: ResolvedPlacement) -> None:
    row = get_anatomy(model)
    obstacle = find_obstacle(item.method, row, item.part)
    if obstacle is not None:
        family = get_model_type(model)
        supported = [name for name, reason in list_methods(row).items() if reason is None]
        raise InputError(
            f"{item.method} cannot be used on '{family}' models: {obstacle}. "
            f"Methods that can: {', '.join(supported)} (`lora-mm models show {family}`)."
        )


def _explain_no_match(item: ResolvedPlacement, stack: Stack) -> str:
    if item.layers == ():
        return "leave `layers` out to adapt all layers"
    return f"its {item.part} layers have none of {', '.join(item.roles)}; they have {', '.join(stack.roles)}"


def _check_widths(model: nn.Module, item: ResolvedPlacement, paths: Iterable[str]) -> None:
    for path in paths:
        module = model.get_submodule(path)
        width = get_feature_sizes(module.get_base_layer() if isinstance(module, RoutedLayer) else module)[1]
        if width % item.groups:
            raise InputError(f"{item}: groups {item.groups} must divide the layer's width, {width}.")
