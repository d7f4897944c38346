"""Reads recipes by name or file, merges what they extend, and applies ``--set``. Needs no torch and runs nothing."""

import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lora_mm.errors import InputError, suggest_name
from lora_mm.recipe.sections import Recipe
from lora_mm.validation import explain_validation_error
from lora_mm.yaml_text import parse_yaml


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
        InputError: there is no such recipe; suggests the closest name.
    """
    path = Path(name)
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
    fields = _read_yaml(file)
    parents = fields.pop("extends", None) or []
    inherited: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        neighbor = file.parent / str(parent)
        is_neighbor = neighbor.suffix in (".yaml", ".yml") and neighbor.is_file()
        parent_file = neighbor if is_neighbor else recipe_file(str(parent))
        inherited = _merge(inherited, _read_fields(parent_file, (*seen, file.resolve())))
    return _merge(inherited, fields)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        fields = parse_yaml(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{file}{where}: invalid YAML: {getattr(error, 'problem', None) or error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{file}: a recipe must be a mapping of keys, not {type(fields).__name__}.")
    return fields


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
        raise InputError(f"--set {override}: write it as key=value, such as training.learning_rate=0.001.")
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError:
        raise InputError(f"--set {key}: '{value}' is not valid YAML.") from None
    *path, last = key.strip().split(".")
    target: Any = fields
    for step in path:
        target = target[_parse_index(target, step, key)] if isinstance(target, list) else target.setdefault(step, {})
        if not isinstance(target, (dict, list)):
            raise InputError(f"--set {key}: '{step}' is a value and has no keys.")
    if isinstance(target, list):
        target[_parse_index(target, last, key)] = parsed
    else:
        target[last] = parsed


def _parse_index(items: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise InputError(f"--set {key}: no item '{step}'; the list has {len(items)} items, counted from 0.")
    return int(step)
