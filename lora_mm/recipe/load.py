"""Reads recipes: by name or file, with what they extend below and ``--set`` on top. Knows no torch; runs nothing."""

import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lora_mm.errors import InputError, suggest_name
from lora_mm.recipe.sections import Recipe
from lora_mm.validation import explain_validation_error


def recipes_folder() -> Path:
    """Where the package's recipes are: inside an installed wheel, or beside the package in a source tree."""
    inside = Path(str(importlib.resources.files("lora_mm"))) / "recipes"
    return inside if inside.is_dir() else inside.parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the package's recipes; files whose names begin with ``_`` are parts of some."""
    return sorted(file.stem for file in recipes_folder().glob("[!_]*.yaml"))


def recipe_file(name: str) -> Path:
    """The file of a recipe by name or path.

    Raises:
        InputError: when there is none; suggests the nearest name.
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
    raise InputError(f"Unknown recipe '{name}'; known are: {', '.join(names)}.{suggest_name(name, names)}")


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or path, with what it extends below and ``key.sub=value`` overrides on top.

    Raises:
        InputError: one line a fault: unknown keys (the nearest suggested), wrong types, values out of range.
    """
    fields = _read(recipe_file(name), seen=())
    faults: list[str] = []
    for override in overrides:
        try:
            _override(fields, override)
        except InputError as error:
            faults += error.faults
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(*faults, *explain_validation_error(error, Recipe)) from None
    if faults:
        raise InputError(*faults)
    return recipe


def _read(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if file.resolve() in seen:
        raise InputError(f"{file}: extends itself, by way of {' → '.join(path.name for path in seen)}.")
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}, column {place.column + 1}" if place else ""
        raise InputError(f"{file}{where}: not YAML: {getattr(error, 'problem', None) or error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{file}: a recipe is a mapping of keys, this is {type(fields).__name__}.")
    parents = fields.pop("extends", None) or []
    below: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        beside = file.parent / str(parent)
        parent_file = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else recipe_file(str(parent))
        below = _merge(below, _read(parent_file, (*seen, file.resolve())))
    return _merge(below, fields)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(fields: dict[str, Any], text: str) -> None:
    """Set one ``key.sub=value`` in ``fields``; the value is read as YAML, list items go by number."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text}: write it as key=value, such as training.learning_rate=0.001.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {key}: '{value}' is not YAML.") from None
    *path, last = key.strip().split(".")
    target: Any = fields
    for step in path:
        target = target[_index(target, step, key)] if isinstance(target, list) else target.setdefault(step, {})
        if not isinstance(target, (dict, list)):
            raise InputError(f"--set {key}: '{step}' holds a value, not keys.")
    if isinstance(target, list):
        target[_index(target, last, key)] = parsed
    else:
        target[last] = parsed


def _index(items: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise InputError(f"--set {key}: no item '{step}'; the list has {len(items)}, counted from 0.")
    return int(step)
