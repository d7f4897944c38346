"""Reads JSON strictly (a duplicate key is a fault) and writes it as one line. Knows no adapters and no data sets."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lora_mm.errors import InputError, truncate_faults
from lora_mm.printable import escape_for_json


def read_json_file(path: Path) -> Any:
    """Read the JSON value in a file; a byte order mark is skipped.

    Raises:
        InputError: no such file, not text, not JSON (with line and column), cut off, or an object with a repeated key,
            of which a plain parser silently keeps the last.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    repeated: list[str] = []

    def collect_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(find_repeated_keys(pairs))
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=collect_repeated)
    except json.JSONDecodeError as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else "; the file is cut off"
        raise InputError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}{cut}") from error
    except RecursionError as error:
        raise InputError(f"{path}: not JSON that can be read: nested too deeply") from error
    if repeated:
        raise InputError(*truncate_faults([f"{path}: duplicate key '{key}'" for key in repeated]))
    return value


def find_repeated_keys(pairs: list[tuple[str, Any]]) -> list[str]:
    """Find the keys that occur more than once in the pairs of one object."""
    if len(dict(pairs)) == len(pairs):
        return []
    return [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]


def to_json(value: Any) -> str:
    """Write a value as one line of JSON; of the characters outside ASCII, only those that no terminal should see are
    escaped."""
    return escape_for_json(json.dumps(value, ensure_ascii=False))
