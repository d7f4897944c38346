"""Reads YAML of bounded size, and writes YAML that loads as exactly the same data. Knows no recipes and no cards."""

from typing import Any

import yaml

_MAX_VALUES = 100_000


def parse_yaml(text: str) -> Any:
    """Read YAML.

    Aliases count as often as they are used: a few lines of them can stand for more values than fit into memory.

    Raises:
        yaml.YAMLError: not YAML, a number or date that does not exist, or more than 100,000 values.
    """
    try:
        value = yaml.safe_load(text)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from error
    count, left = 0, [value]
    while left:
        item = left.pop()
        count += 1
        if count > _MAX_VALUES:
            raise yaml.YAMLError(f"holds more than {_MAX_VALUES:,} values")
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return value


def to_yaml(data: Any) -> str:
    """Write ``data`` as YAML, with its order of keys and without escaping other scripts.

    PyYAML writes U+0085 unescaped but reads it as a space, so data with that character is written in ASCII.
    """
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return yaml.safe_dump(data, sort_keys=False) if "\x85" in text else text
