"""Plain LoRA placements as a stock PEFT config, which loads where lora-mm is not installed. Changes no modules."""

from collections.abc import Mapping, Sequence

import peft

from lora_mm.adapters.placement import ResolvedPlacement
from lora_mm.adapters.targets import Target
from lora_mm.errors import InputError

_SHARED_INPUT = {"q": "norm", "k": "norm", "v": "norm", "gate": "ffn", "up": "ffn"}
"""Role of a linear layer → the input that it shares with other linear layers of its block."""

_CROSS_ATTENTION = ("cross", "EncDec")
"""Words in the path of a cross-attention, whose q reads one tensor and whose k and v read another."""


def make_lora_config(
    targets: Mapping[str, Target], placements: Sequence[ResolvedPlacement], modules_to_save: list[str] | None
) -> peft.LoraConfig:
    """Make the PEFT config of plain LoRA placements: full module paths, and ranks and alphas by path where they differ.

    Args:
        targets: module path → its target, as :func:`~.targets.resolve_targets` found them.
        placements: all of method ``lora``; at least one.
        modules_to_save: paths of the modules that are trained whole.

    Raises:
        InputError: the placements have biases, several dropouts or dropout of hidden units, which one stock LoRA cannot
            have.
    """
    first = placements[0]
    if any(item.bias for item in placements):
        raise InputError("Plain LoRA has no biases; leave `bias` out, or set it to false.")
    if any(item.dropout and item.drops != "input" for item in placements):
        raise InputError("Plain LoRA drops its input; leave `drops` out, or set it to input.")
    if len({item.dropout for item in placements}) > 1:
        raise InputError("Plain LoRA has one dropout for all its placements; set the same in each.")
    items = {path: target.placement for path, target in targets.items()}
    return peft.LoraConfig(
        r=first.rank,
        lora_alpha=_get_alpha(first),  # type: ignore[arg-type]  # PEFT divides it by the rank, and saves a float as well
        lora_dropout=first.dropout,
        target_modules=sorted(items),
        rank_pattern={path: item.rank for path, item in items.items() if item.rank != first.rank},
        alpha_pattern={
            path: _get_alpha(item)
            for path, item in items.items()
            if item.factor * item.rank != first.factor * first.rank
        },
        modules_to_save=modules_to_save,
    )


def _get_alpha(item: ResolvedPlacement) -> float:
    """PEFT's alpha, which it divides by the rank to get the scale."""
    return round(item.factor * item.rank, 6)


def group_by_input(targets: Mapping[str, Target]) -> dict[tuple[str, str], list[str]]:
    """Group the linear layers that read the same tensor: (their module, the input) → their paths.

    Args:
        targets: module path → its target.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for path, target in targets.items():
        parent = path.rpartition(".")[0]
        if target.role in _SHARED_INPUT and not any(word in parent for word in _CROSS_ATTENTION):
            groups.setdefault((parent, _SHARED_INPUT[target.role]), []).append(path)
    return groups
