"""Writes YAML that loads as exactly the same data. Knows no recipes and no cards."""

from typing import Any

import yaml


def to_yaml(data: Any) -> str:
    """Write ``data`` as YAML, with its order of keys and without escaping other scripts.

    PyYAML writes U+0085 unescaped but reads it as a space, so data with that character is written in ASCII.
    """
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return yaml.safe_dump(data, sort_keys=False) if "\x85" in text else text
