"""Summarises an adapter folder without loading a model. Knows files; imports no torch and computes no score."""

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

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
from lora_mm.errors import name_place
from lora_mm.models.families import match_part
from lora_mm.paths import read_text_file
from lora_mm.yaml_text import parse_yaml, read_yaml_mapping

_PEFT_PREFIX = "base_model.model."
"""PEFT's prefix of every tensor's name."""

_METADATA = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", re.DOTALL)
"""The YAML on top of a model card, as the Hub finds it."""


def summarize_adapter(folder: Path) -> dict[str, Any]:
    """Read what the folder says about an adapter, as JSON values.

    Parameters by part are counted from the tensors in the file, not read from the card.

    Raises:
        InputError: not an adapter folder, or a file in it that cannot be read.
    """
    check_adapter_folder(folder)
    config, facts = read_json_object(folder / CONFIG), read_json_object(folder / PREPROCESSING)
    recipe = read_yaml_mapping(folder / RECIPE)
    shapes = read_tensor_shapes(folder / WEIGHTS)
    card = read_text_file(folder / CARD) if (folder / CARD).is_file() else ""
    scores = read_json_object(folder / SCORES) if (folder / SCORES).is_file() else {}
    return {
        "name": folder.name,
        "summary": recipe.get("summary", ""),
        "base": _as_mapping(facts.get("base")),
        "peft_type": config.get("peft_type"),
        "placements": _describe_placements(config),
        "parameters": _count_by_part(shapes, _as_mapping(facts.get("parts"))),
        "dtypes": sorted({dtype for _, dtype in shapes.values()}),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "data": _describe_data(recipe),
        "licence": _read_license(card, folder / CARD),
        "scores": _as_mapping(scores.get("scores")),
        "card": card,
    }


def format_summary(facts: dict[str, Any]) -> Iterator[str]:
    """Format the facts of :func:`summarize_adapter` as lines for people, without the card.

    Control characters are replaced, because anyone may have written the adapter.
    """
    for line in _format_lines(facts):
        yield "".join(letter if letter.isprintable() else "�" for letter in line)


def _format_lines(facts: dict[str, Any]) -> Iterator[str]:
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
    yield from _format_scores(facts["scores"])


def format_size(size: int) -> str:
    """Format ``size`` bytes in KB or MB (powers of 1,000)."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"


def _count_by_part(shapes: dict[str, tuple[tuple[int, ...], str]], parts: dict[str, Any]) -> dict[str, int]:
    prefixes = {part: [name for name in _as_list(names) if isinstance(name, str)] for part, names in parts.items()}
    counts: dict[str, int] = {}
    for name, (shape, _) in shapes.items():
        part = match_part(prefixes, name.removeprefix(_PEFT_PREFIX)) if prefixes else "all"
        counts[part] = counts.get(part, 0) + prod(shape)
    return counts


def _describe_placements(config: dict[str, Any]) -> list[str]:
    """One line for each placement, and each module trained whole."""
    lines = [_describe_placement(_as_mapping(item)) for item in _as_list(config.get("placements"))]
    if (targets := _as_list(config.get("target_modules"))) and not lines:  # a stock LoRA
        lines.append(f"lora beside {len(targets)} linear layers, rank {config.get('r')}")
    return lines + [f"{path}, trained whole" for path in _as_list(config.get("modules_to_save"))]


def _describe_placement(item: dict[str, Any]) -> str:
    numbers = [f"{name} {item[name]}" for name in ("rank", "experts", "layers") if item.get(name) is not None]
    return f"{item.get('method')} on {item.get('part')} at {item.get('at')}, {', '.join(numbers)}"


def _format_scores(scores: dict[str, Any]) -> Iterator[str]:
    """A table of the scores that a run measured."""
    rows = {
        label: columns for label, row in scores.items() if (columns := _as_mapping(_as_mapping(row).get("columns")))
    }
    if not rows:
        yield "scores      none"
        return
    width, names = max(map(len, rows)), list(next(iter(rows.values())))
    yield " ".join(["scores".ljust(width), *(f"{name:>6}" for name in names)])
    for label, columns in rows.items():
        cells = [_format_figure(columns.get(name, {})).rjust(max(6, len(name))) for name in names]
        yield " ".join([label.ljust(width), *cells])


def _format_figure(figure: Any) -> str:
    """An accuracy, or another figure such as chrF, with two decimals; ``–`` for none."""
    figure = _as_mapping(figure)
    value = figure.get("accuracy", figure.get("value"))
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def _as_mapping(value: Any) -> dict[str, Any]:
    """``value`` if it is a mapping, else an empty one: the adapter's files may hold anything."""
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _describe_data(recipe: dict[str, Any]) -> str | None:
    """Paths of the training data, as the recipe names them."""
    section = _as_mapping(recipe.get("data"))
    sources = [section, *map(_as_mapping, _as_list(section.get("sources")))]
    paths = [source.get("path") for source in sources]
    return ", ".join(str(path) for path in paths if path) or None


def _read_license(card: str, file: Path) -> Any:
    """The license in the metadata on top of a model card; None if it names none."""
    match = _METADATA.match(card)
    with name_place(file):
        return _as_mapping(parse_yaml(match[1])).get("license") if match else None
