"""Decides which methods apply to which model families, from their rows alone. Knows no modules and no torch."""

from collections.abc import Callable, Mapping
from typing import Any

from lora_mm.adapters.methods import METHODS
from lora_mm.errors import InputError, suggest_name
from lora_mm.models.families import Anatomy, Stack, find_family

_ROUTER_OBSTACLES: Mapping[str, tuple[tuple[Callable[[Anatomy], bool], str], ...]] = {
    "crop": (
        (lambda row: row.packed, "its tower takes several tiles or pictures in one row, so no row is a crop"),
        (lambda row: not row.visual_tokens, "its prompt does not show which row of its tower is which crop"),
    ),
    "visual": (
        (
            lambda row: not row.visual_tokens,
            "its language model attends to pictures by cross-attention, and none of its tokens is visual",
        ),
    ),
}
"""Router → tests whether a family lacks what the router reads, each with the reason."""


def find_obstacle(method_name: str, row: Anatomy, part: str | None = None) -> str | None:
    """Find the reason why a method cannot be used on a family; None if it can.

    Args:
        method_name: a row of :data:`~.methods.METHODS`.
        row: the family's anatomy.
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
    stacks: dict[str, Stack | None] = {"language": row.language, "vision": row.vision}
    roles = {role for site in method.sites.values() for role in site}
    reasons = [reason for name in parts if (reason := _find_missing_layers(name, stacks.get(name), roles)) is not None]
    if len(reasons) == len(parts):
        return reasons[0]
    return next((reason for lacks, reason in _ROUTER_OBSTACLES.get(method.router or "", ()) if lacks(row)), None)


def _find_missing_layers(part: str, stack: Stack | None, roles: set[str]) -> str | None:
    if stack is None:
        return "it has no vision tower" if part == "vision" else f"it has no layers in part '{part}'"
    return None if roles & set(stack.roles) else f"its {part} layers have none of {', '.join(sorted(roles))}"


def list_methods(row: Anatomy) -> dict[str, str | None]:
    """List every method → the reason why it cannot be used on the family of ``row``; None if it can."""
    return {name: find_obstacle(name, row) for name in METHODS}


def describe_model_type(model_type: str) -> dict[str, Any]:
    """Describe a family, and the methods that it allows, as plain data for people and programs.

    Raises:
        InputError: the family has no row.
    """
    row = find_family(model_type)
    stacks = {
        "language": row.language,
        **{f"language, {name}": stack for name, stack in row.languages.items() if stack is not row.language},
        "vision": row.vision,
    }
    return {
        "model_type": model_type,
        "parts": {part: list(paths) for part, paths in row.parts.items()},
        "layers": {name: None if stack is None else _describe_stack(stack) for name, stack in stacks.items()},
        "placeholders": {name: _describe_placeholder(source) for name, source in row.placeholders.items()},
        "visual_tokens": row.visual_tokens,
        "crops": row.crops,
        "framed": row.framed,
        "packed": row.packed,
        "methods": {
            name: {part: find_obstacle(name, row, part) for part in method.parts} for name, method in METHODS.items()
        },
    }


def _describe_stack(stack: Stack) -> dict[str, Any]:
    roles = {role: path if isinstance(path, str) else " or ".join(path) for role, path in stack.roles.items()}
    read = "all" if stack.depth is None else str(stack.depth.__doc__).split(" (")[0]
    return {"paths": list(stack.layers), "read": read, "roles": roles}


def _describe_placeholder(source: Any) -> str:
    """The config attribute that holds a placeholder's id, or the docstring of the function that computes it."""
    return source if isinstance(source, str) else str(source.__doc__)
