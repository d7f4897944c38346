"""Decides which module of a model gets which placement. Knows modules and placements; changes neither."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lora_mm.adapters.layers import RoutedLayer, get_feature_sizes
from lora_mm.adapters.placement import Placement, ResolvedPlacement
from lora_mm.adapters.support import find_obstacle, list_methods
from lora_mm.errors import InputError
from lora_mm.models.anatomy import Stack, get_anatomy, get_model_type


@dataclass(frozen=True)
class Target:
    """A module that is adapted.

    Attributes:
        placement: the placement that adapts it.
        role: its role in its layer (see :mod:`lora_mm.models.layer_roles`).
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
        Module path → its target. Updates of several placements beside one module add up; the layer of the second is at
        :func:`get_inner_path` of the first's.

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
        taken = {path: conflict for path in new if (conflict := _find_conflict(targets, path, item)) is not None}
        if taken:
            path, (other, reason) = next(iter(taken.items()))
            more = f" and on {len(taken) - 1} more" if len(taken) > 1 else ""
            faults.append(
                f"Two adapters on one module, {path}{more}: {other} and {item}. {reason}; give each its own part, site "
                "or layers."
            )
        for path, target in new.items():
            targets[_find_free_path(targets, path)] = target
    if faults:
        raise InputError(*faults)
    return targets


def _find_conflict(
    targets: Mapping[str, Target], path: str, item: ResolvedPlacement
) -> tuple[ResolvedPlacement, str] | None:
    """Find a placement on the module that another one cannot be added to, and the reason; None if updates add up."""
    while path in targets:
        other = targets[path].placement
        for one in (item, other):
            if one.row.reads == "output":
                return other, "Each changes what the other reads"
            if one.side_by_side:
                return other, "Experts side by side run the whole feed-forward"
        if item.method == other.method:
            return other, "Their updates are of one kind"
        path = get_inner_path(path)
    return None


def _find_free_path(targets: Mapping[str, Target], path: str) -> str:
    while path in targets:
        path = get_inner_path(path)
    return path


def get_inner_path(path: str) -> str:
    """The path of what an adapted module wraps: the module of the base, or another adapter's layer on it."""
    return f"{path}.base_layer"


def _find_targets(model: nn.Module, item: ResolvedPlacement) -> dict[str, Target]:
    """The targets of one placement."""
    _check_support(model, item)
    stack = get_anatomy(model).stack(item.part)
    layers = stack.layers
    indices = _list_indices(item, len(layers))
    beyond = [index for index in indices if not 0 <= index < len(layers)]
    if beyond:
        raise InputError(
            f"{item}: layers {beyond} do not exist or are never read; the model reads layers 0 to {len(layers) - 1}."
        )
    targets: dict[str, Target] = {}
    for role in item.roles:
        norm_role = item.row.residual.get(role)
        for index in indices:
            path, norm = stack.roles[index].get(role), stack.roles[index].get(norm_role or "")
            if path is not None and (norm is not None or norm_role is None):
                targets[path] = Target(item, role, layers[index], norm)
    if not targets:
        raise InputError(f"{item} matches no module of this model: {_explain_no_match(item, stack)}.")
    _check_widths(model, item, targets)
    return targets


def describe_coverage(model: nn.Module, placements: Iterable[Placement]) -> list[str]:
    """Describe placements that some layers lack a part of, for example an attention's q among linear attentions.

    Args:
        model: the transformers model.
        placements: the placements of one adapter.

    Returns:
        A line for each placement whose roles are not in all of its layers.
    """
    lines = []
    for placement in placements:
        item = placement.resolve()
        stack = get_anatomy(model).stack(item.part)
        layers = [stack.roles[index] for index in _list_indices(item, len(stack.layers))]
        counts = {role: sum(role in roles for roles in layers) for role in item.roles}
        by_count: dict[int, list[str]] = {}
        for role, count in counts.items():
            by_count.setdefault(count, []).append(role)
        if set(by_count) - {0, len(layers)}:
            told = "; ".join(f"{count} have {', '.join(roles)}" for count, roles in by_count.items() if count)
            lines.append(f"{item}: of {len(layers)} layers {told}.")
    return lines


def _list_indices(item: ResolvedPlacement, count: int) -> Sequence[int]:
    """The indices of the layers that a placement adapts."""
    return item.layers if isinstance(item.layers, tuple) else range(0, count, 2 if item.layers == "even" else 1)


def _check_support(model: nn.Module, item: ResolvedPlacement) -> None:
    row = get_anatomy(model).family
    obstacle = find_obstacle(item.method, row, item.part)
    if obstacle is None:
        return
    family = get_model_type(model)
    parts = [part for part in item.row.parts if find_obstacle(item.method, row, part) is None]
    if parts:
        raise InputError(
            f"{item.method} on {item.part} cannot be used on '{family}' models: {obstacle}. Place it on "
            f"{' or '.join(parts)}."
        )
    supported = [name for name, reason in list_methods(row).items() if reason is None]
    raise InputError(
        f"{item.method} cannot be used on '{family}' models: {obstacle}. "
        f"Methods that can: {', '.join(supported)} (`lora-mm models show {family}`)."
    )


def _explain_no_match(item: ResolvedPlacement, stack: Stack) -> str:
    if item.layers == ():
        return "leave `layers` out to adapt all layers"
    return f"its {item.part} layers have none of {', '.join(item.roles)}; they have {', '.join(stack.known_roles)}"


def _check_widths(model: nn.Module, item: ResolvedPlacement, paths: Iterable[str]) -> None:
    for path in paths:
        module = model.get_submodule(path)
        width = get_feature_sizes(module.get_base_layer() if isinstance(module, RoutedLayer) else module)[1]
        if width % item.groups:
            raise InputError(f"{item}: groups {item.groups} must divide the layer's width, {width}.")
