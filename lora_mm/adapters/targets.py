"""Which module of a model gets which placement. Knows modules and placements; changes neither."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lora_mm.adapters.layers import RoutedLayer, get_feature_sizes
from lora_mm.adapters.placement import Placement
from lora_mm.adapters.support import find_obstacle, list_methods
from lora_mm.errors import InputError
from lora_mm.models.anatomy import find_layers, find_role_modules, get_anatomy


@dataclass(frozen=True)
class Target:
    """A module that is adapted: by which placement, what it is in its layer, and where the layer is.

    Attributes:
        residual: path of the norm whose input is read in place of the module's own.
    """

    placement: Placement
    role: str
    layer: str
    residual: str | None = None


def resolve_targets(model: nn.Module, placements: Iterable[Placement]) -> dict[str, Target]:
    """Which module of ``model`` gets which placement.

    Raises:
        InputError: naming every fault at once: a method that the family cannot have, a layer index beyond the model, a
            placement that matches nothing or does not fit a module's width, two placements on one module.
    """
    found: dict[str, Target] = {}
    faults: list[str] = []
    for item in placements:
        try:
            targets = _targets(model, item)
        except InputError as error:
            faults += error.faults
            continue
        both = [path for path in targets if path in found]
        if both:
            more = f" and on {len(both) - 1} more" if len(both) > 1 else ""
            faults.append(
                f"Two adapters on one module, {both[0]}{more}: {found[both[0]].placement} and {item}; "
                "give each its own part, site or layers."
            )
        found |= targets
    if faults:
        raise InputError(*faults)
    return found


def _targets(model: nn.Module, item: Placement) -> dict[str, Target]:
    """The modules of one placement."""
    row = get_anatomy(model)
    stack = row.stack(item.part)
    reason = find_obstacle(item.method, row, item.part)
    if reason is not None:
        family = model.config.model_type
        others = [name for name, no in list_methods(row).items() if no is None]
        raise InputError(
            f"{item.method} cannot be used on '{family}' models: {reason}. "
            f"Those that can: {', '.join(others)} (`lora-mm models show {family}`)."
        )
    layers = find_layers(model, item.part)
    chosen = range(len(layers)) if item.layers is None else item.layers
    beyond = [index for index in chosen if not 0 <= index < len(layers)]
    if beyond:
        raise InputError(
            f"{item}: layers {beyond} do not exist or are never read; the model reads layers 0 to {len(layers) - 1}."
        )
    targets: dict[str, Target] = {}
    for role in [role for role in item.roles if role in stack.roles]:
        paths, norm = find_role_modules(model, item.part, role), item.row.residual.get(role)
        norms = find_role_modules(model, item.part, norm) if norm else [None] * len(paths)
        targets |= {paths[index]: Target(item, role, layers[index], norms[index]) for index in chosen}
    if not targets:
        looked = "leave `layers` out for all" if item.layers == [] else (
            f"its {item.part} layers have none of {', '.join(item.roles)}; they have {', '.join(stack.roles)}"
        )  # fmt: skip
        raise InputError(f"{item} matches no module of this model: {looked}.")
    for path in targets:
        module = model.get_submodule(path)
        width = get_feature_sizes(module.get_base_layer() if isinstance(module, RoutedLayer) else module)[1]
        if width % (item.groups or 1):
            raise InputError(f"{item}: groups {item.groups} must divide the layer's width, {width}.")
    return targets
