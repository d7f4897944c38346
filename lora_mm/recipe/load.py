"""Reads recipes by name or file, merges what they extend, and applies ``--set``. Needs no torch and runs nothing."""

import importlib.resources
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_mm.errors import InputError, name_place, shorten, suggest_name
from lora_mm.paths import resolve_path
from lora_mm.recipe.sections import Recipe
from lora_mm.validation import explain_validation_error
from lora_mm.yaml_text import MAX_DEPTH, parse_yaml, read_yaml_mapping


def recipes_folder() -> Path:
    """Return the folder of the packaged recipes: in an installed wheel, or beside the package in a source tree."""
    inside = Path(str(importlib.resources.files("lora_mm"))) / "recipes"
    return inside if inside.is_dir() else inside.parents[1] / "recipes"


def recipe_names() -> list[str]:
    """List the packaged recipes. Files that start with ``_`` hold shared keys and are not listed."""
    return sorted(file.stem for file in recipes_folder().glob("[!_]*.yaml"))


def recipe_file(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: name of a packaged recipe, or path of a YAML file.

    Raises:
        InputError: there is no such recipe (suggests the closest name), or no file can have this name.
    """
    path = resolve_path(name, "recipe")
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise InputError(f"No recipe file '{name}'.")
    packaged = recipes_folder() / f"{name}.yaml"
    if packaged.is_file() and path.name == name:
        return packaged
    names = recipe_names()
    raise InputError(f"Unknown recipe '{name}'. Known: {', '.join(names)}.{suggest_name(name, names)}")


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, merged with what it extends.

    Args:
        name: name of a packaged recipe, or path of a YAML file.
        overrides: ``key.sub=value`` settings, applied last and in this order.

    Returns:
        The validated recipe.

    Raises:
        InputError: one line for each fault: unknown keys (with the closest known key), wrong types, values out of
            range.
    """
    fields = _read_fields(recipe_file(name), seen=())
    faults: list[str] = []
    for override in overrides:
        try:
            with name_place(f"--set {shorten(override.partition('=')[0] or override)}"):
                _apply_override(fields, override)
        except InputError as error:
            faults += error.faults
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(*faults, *explain_validation_error(error, Recipe)) from None
    if faults:
        raise InputError(*faults)
    return recipe


def _read_fields(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read the keys of a file, merged with those of the files it extends; ``seen`` are the files that extend it."""
    if file.resolve() in seen:
        raise InputError(f"{file}: extends itself: {' → '.join(path.name for path in (*seen, file))}.")
    fields = read_yaml_mapping(file)
    parents = fields.pop("extends", None) or []
    inherited: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        neighbor = resolve_path(file.parent / str(parent), f"{file}: extends")
        is_neighbor = neighbor.suffix in (".yaml", ".yml") and neighbor.is_file()
        parent_file = neighbor if is_neighbor else recipe_file(str(parent))
        inherited = _merge(inherited, _read_fields(parent_file, (*seen, file.resolve())))
    return _merge(inherited, fields)


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Merge ``upper`` over ``lower``; mappings are merged key by key."""
    merged = dict(lower)
    for key, value in upper.items():
        are_mappings = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if are_mappings else value
    return merged


def _apply_override(fields: dict[str, Any], override: str) -> None:
    """Set one ``key.sub=value`` in ``fields``. The value is read as YAML; list items are named by index."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError("write it as key=value, such as training.learning_rate=0.001.")
    parsed = parse_yaml(value)
    *path, last = key.strip().split(".")
    if len(path) > MAX_DEPTH:
        raise InputError(f"{len(path) + 1} keys inside each other; no recipe has so many.")
    target: Any = fields
    for step in path:
        place = _parse_index(target, step) if isinstance(target, list) else step
        if isinstance(target, dict) and target.get(step) is None:  # null, or not written: a section of defaults
            target[step] = {}
        target = target[place]
        if not isinstance(target, (dict, list)):
            raise InputError(f"'{step}' is a value and has no keys.")
    target[_parse_index(target, last) if isinstance(target, list) else last] = parsed


def _parse_index(items: list[Any], step: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", step) or int(step) >= len(items):
        raise InputError(f"no item '{step}'; the list has {len(items)} items, counted from 0.")
    return int(step)
