"""Reads JSON strictly (a duplicate key is a fault) and writes it as one line. Knows no adapters and no data sets."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lora_mm.errors import InputError, name_place, truncate_faults
from lora_mm.paths import read_text_file
from lora_mm.printable import escape_for_json

MAX_DEPTH = 100
"""Maximum number of lists and objects inside each other: enough for data, and nothing that walks a value overflows."""


def read_json_file(path: Path) -> Any:
    """Read the JSON value in a file; a byte order mark is skipped.

    Raises:
        InputError: the file cannot be read, or see :func:`parse_json`; each fault names the file.
    """
    text = read_text_file(path)
    with name_place(path):
        return parse_json(text)


def parse_json(text: str) -> Any:
    """Parse one JSON value.

    Raises:
        InputError: not JSON (with line and column), an object with a repeated key, of which a plain parser silently
            keeps the last, a number with too many digits, or more than :data:`MAX_DEPTH` levels.
    """
    repeated: list[str] = []

    def collect_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return fields

    try:
        value = json.loads(text, object_pairs_hook=collect_repeated)
    except json.JSONDecodeError as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else "; the text is cut off"
        raise InputError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}{cut}") from error
    except RecursionError:
        raise InputError(_TOO_DEEP) from None
    except ValueError as error:  # Python's limit for the digits of an integer
        raise InputError("an integer with more digits than can be read") from error
    if repeated:
        raise InputError(*truncate_faults([f"duplicate key '{key}'" for key in repeated]))
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(value):
        raise InputError(_TOO_DEEP)
    return value


_TOO_DEEP = f"JSON nested too deeply, more than {MAX_DEPTH} levels"


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, (dict, list)) for item in level)


def to_json(value: Any) -> str:
    """Write a value as one line of JSON; of the characters outside ASCII, only those that no terminal should see are
    escaped."""
    return escape_for_json(json.dumps(value, ensure_ascii=False))
