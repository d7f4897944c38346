"""What an adapter folder says of itself, read without a model. Knows files; imports no torch and computes no score."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import yaml

from lora_mm.artifact.files import (
    CARD,
    CONFIG,
    PREPROCESSING,
    RECIPE,
    SCORES,
    WEIGHTS,
    check_adapter_folder,
    read_json_object,
    read_tensor_shapes,
)
from lora_mm.errors import InputError
from lora_mm.models.families import match_part

_ROOT = "base_model.model."
"""What PEFT writes before the path of every tensor."""


def summarize_adapter(folder: Path) -> dict[str, Any]:
    """All there is to know of the adapter in ``folder`` before it is loaded, as plain data.

    Parameters by part are counted from the tensors that are in the file, not from what the card says.

    Raises:
        InputError: for a folder that is no adapter, or files in it that cannot be read.
    """
    check_adapter_folder(folder)
    config, facts, recipe = (
        read_json_object(folder / CONFIG),
        read_json_object(folder / PREPROCESSING),
        _yaml(folder / RECIPE),
    )
    shapes = read_tensor_shapes(folder / WEIGHTS)
    card = _text(folder / CARD) if (folder / CARD).is_file() else ""
    return {
        "name": folder.name,
        "summary": recipe.get("summary", ""),
        "base": _fields(facts.get("base")),
        "peft_type": config.get("peft_type"),
        "placements": _placements(config),
        "parameters": _by_part(shapes, facts.get("parts")),
        "dtypes": sorted({dtype for _, dtype in shapes.values()}),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "data": _data(recipe),
        "licence": _front_matter(card, folder / CARD).get("license"),
        "scores": _fields(read_json_object(folder / SCORES).get("scores")) if (folder / SCORES).is_file() else {},
        "card": card,
    }


def format_summary(facts: dict[str, Any]) -> Iterator[str]:
    """What :func:`describe` found, for people; the card itself is left out, and so is what would steer a terminal."""
    for line in _lines(facts):
        yield "".join(letter if letter.isprintable() else "�" for letter in line)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    base, parameters = facts["base"], facts["parameters"]
    revision = f" at {base['revision']}" if base.get("revision") else ""
    yield f"{facts['name']}: {facts['summary']}" if facts["summary"] else facts["name"]
    yield f"base        {base.get('name')}{revision}, fingerprint {base.get('fingerprint')}"
    for number, item in enumerate(facts["placements"]):
        yield f"{'' if number else 'placements':12}{item}"
    counts = ", ".join(f"{part} {count:,}" for part, count in parameters.items())
    yield f"parameters  {sum(parameters.values()):,}: {counts}"
    dtypes = " and ".join(facts["dtypes"])
    yield f"weights     {format_size(facts['bytes'])} in {dtypes}, PEFT type {facts['peft_type']}"
    yield f"data        {facts['data'] or 'not stated'}"
    yield f"licence     {facts['licence'] or 'not stated'}"
    yield from _scores(facts["scores"])


def format_size(size: int) -> str:
    """``size`` bytes in KB or MB of 1,000."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"


def _by_part(shapes: dict[str, tuple[tuple[int, ...], str]], parts: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, (shape, _) in shapes.items():
        part = match_part(parts, name.removeprefix(_ROOT)) if isinstance(parts, dict) else "all"
        found[part] = found.get(part, 0) + prod(shape)
    return found


def _placements(config: dict[str, Any]) -> list[str]:
    """What stands where, a line each."""
    found = [_placement(_fields(item)) for item in _items(config.get("placements"))]
    if (targets := _items(config.get("target_modules"))) and not found:  # a stock LoRA
        found.append(f"lora beside {len(targets)} linear layers, rank {config.get('r')}")
    return found + [f"{path}, whole" for path in _items(config.get("modules_to_save"))]


def _placement(item: dict[str, Any]) -> str:
    shown = [f"{name} {item[name]}" for name in ("rank", "experts", "layers") if item.get(name) is not None]
    return f"{item.get('method')} on {item.get('part')} at {item.get('at')}, {', '.join(shown)}"


def _scores(scores: dict[str, Any]) -> Iterator[str]:
    """The rows of figures that a run measured, under the names of their columns."""
    rows = {label: columns for label, row in scores.items() if (columns := _fields(_fields(row).get("columns")))}
    if not rows:
        yield "scores      none"
        return
    width, names = max(map(len, rows)), list(next(iter(rows.values())))
    yield " ".join(["scores".ljust(width), *(f"{name:>6}" for name in names)])
    for label, columns in rows.items():
        yield " ".join([label.ljust(width), *(_cell(columns.get(name, {})).rjust(max(6, len(name))) for name in names)])


def _cell(figure: Any) -> str:
    """An accuracy, or a figure that is none, such as VQA's or chrF."""
    figure = _fields(figure)
    value = figure.get("accuracy", figure.get("value"))
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def _fields(value: Any) -> dict[str, Any]:
    """``value`` where it is a mapping: what strangers wrote may be anything."""
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _data(recipe: dict[str, Any]) -> str | None:
    """Where the rows that it learnt from were, as the recipe calls it."""
    section = _fields(recipe.get("data"))
    places = [section, *map(_fields, _items(section.get("sources")))]
    paths = [place.get("path") for place in places]
    return ", ".join(str(path) for path in paths if path) or None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}.") from error


def _yaml(file: Path) -> dict[str, Any]:
    return _mapping(_text(file), file)


def _front_matter(card: str, file: Path) -> dict[str, Any]:
    """The metadata on top of a model card; none where the card has none."""
    parts = card.split("---\n", 2)
    return _mapping(parts[1], file) if len(parts) == 3 and not parts[0] else {}


def _mapping(text: str, file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: holds a {type(found).__name__}, not a mapping of keys.")
    return found
