"""Checks numbers of pydantic models, and formats validation errors as lines for people. Knows no particular model."""

import re
import reprlib
from typing import Any, get_args

from pydantic import ValidationError

from lora_mm.errors import shorten, suggest_name

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80


def refuse_booleans(model: Any, field: str | None, value: Any) -> Any:
    """Refuse true and false for a number; pydantic takes them as 1 and 0.

    Args:
        model: the pydantic model or dataclass.
        field: name of its field.
        value: value of the field, which is returned.

    Raises:
        ValueError: the field holds numbers, and the value is or has a boolean.
    """
    values = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) for item in values) and _holds_numbers(_get_fields(model)[str(field)].annotation):
        raise ValueError(f"input should be a number, not {_SHOWN.repr(value)}")
    return value


def _holds_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_holds_numbers, get_args(annotation)))


def explain_validation_error(error: ValidationError, model: Any) -> list[str]:
    """Describe a validation error, one line a fault: the key, what is wrong with it, the nearest known key.

    Args:
        error: pydantic's error.
        model: the pydantic model or dataclass that was validated; its fields are the known keys.

    Returns:
        Lines such as ``adapters.0.rnak: unknown key. Did you mean 'rank'?``.
    """
    lines = []
    for item in error.errors():
        key = shorten(".".join(str(step) for step in item["loc"]))
        place = f"{key or repr(key)}: " if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            *path, name = item["loc"]
            lines.append(f"{place}unknown key.{suggest_name(str(name), _list_keys(model, path))}")
        elif item["type"] == "missing":
            lines.append(f"{place}is missing.")
        elif item["type"] == "value_error":
            lines += [f"{place}{line}" for line in message.splitlines()]
        else:
            known = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else []
            suggestion = suggest_name(str(item["input"]), known)
            lines.append(f"{place}{message[0].lower()}{message[1:]}, not {_SHOWN.repr(item['input'])}.{suggestion}")
    return lines


def _list_keys(model: Any, path: list[int | str]) -> list[str]:
    """Names of the fields of the section at ``path`` inside ``model``."""
    for step in path:
        if isinstance(step, int):
            continue  # an index of a list: the previous step gave the type of its items
        model = _get_fields(model)[step].annotation
        model = getattr(model, "__args__", (model,))[0]
    return list(_get_fields(model))


def _get_fields(model: Any) -> dict[str, Any]:
    """Name → field of a pydantic model or dataclass."""
    return dict(getattr(model, "model_fields", None) or getattr(model, "__pydantic_fields__", {}))
