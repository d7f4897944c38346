"""Decides which methods apply to which families, from what is true of a family. Knows no modules and no torch."""

from collections.abc import Callable, Mapping

from lora_mm.adapters.methods import METHODS
from lora_mm.errors import InputError, suggest_name
from lora_mm.models.families import Family

_ROUTER_OBSTACLES: Mapping[str, tuple[tuple[Callable[[Family], bool], str], ...]] = {
    "crop": (
        (
            lambda family: family.crops == "unknown",
            "it is not known which row of its tower is which crop (base.anatomy.crops says it)",
        ),
        (lambda family: family.packed, "its tower takes several tiles or pictures in one row, so no row is a crop"),
        (lambda family: not family.visual_tokens, "its prompt does not show which row of its tower is which crop"),
    ),
    "visual": (
        (
            lambda family: not family.visual_tokens,
            "its language model attends to pictures by cross-attention, and none of its tokens is visual",
        ),
    ),
}
"""Router → tests whether a family lacks what the router reads, each with the reason."""


def find_obstacle(method_name: str, family: Family, part: str | None = None) -> str | None:
    """Find the reason why a method cannot be used on a family; None if it can.

    Args:
        method_name: a row of :data:`~.methods.METHODS`.
        family: what is true of the model's family.
        part: where the method is to be placed; None for any part that it allows.

    Raises:
        InputError: the method does not exist.
    """
    if method_name not in METHODS:
        raise InputError(
            f"Unknown method '{method_name}'; known: {', '.join(METHODS)}.{suggest_name(method_name, list(METHODS))}"
        )
    method = METHODS[method_name]
    if part is not None and part not in method.parts:
        return f"{method_name} can be placed on {' or '.join(method.parts)} only"
    parts = (part,) if part else method.parts
    if not family.tower and set(parts) == {"vision"}:
        return "it has no vision tower"
    roles = {role for site in method.sites.values() for role in site}
    if all(name in family.lacking and roles <= set(family.lacking[name]) for name in parts):
        return f"its {parts[0]} layers have none of {', '.join(sorted(roles))}"
    obstacles = _ROUTER_OBSTACLES.get(method.router or "", ())
    return next((reason for lacks, reason in obstacles if lacks(family)), None)


def list_methods(family: Family) -> dict[str, str | None]:
    """List every method → the reason why it cannot be used on a family; None if it can."""
    return {name: find_obstacle(name, family) for name in METHODS}
