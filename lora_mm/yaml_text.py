"""YAML that reads back as what was written. Knows no recipes and no cards."""

from typing import Any

import yaml


def to_yaml(data: Any) -> str:
    """``data`` as YAML, in its own order and script.

    PyYAML writes U+0085 as it is and reads it as a space: data that holds one is spelled in ASCII.
    """
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return yaml.safe_dump(data, sort_keys=False) if "\x85" in text else text
