"""Reads YAML strictly, and writes YAML that loads as exactly the same data. Knows no recipes and no cards."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from lora_mm.errors import InputError, name_place
from lora_mm.paths import read_text_file

MAX_DEPTH = 50
"""Maximum number of lists and mappings inside each other."""
MAX_NODES = 20_000
"""Maximum number of values, where an alias counts as all that it stands for."""
MAX_CHARACTERS = 1_000_000

_MAX_INTEGER = 2**63 - 1
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read the YAML mapping in a file; a byte order mark is skipped.

    Raises:
        InputError: the file cannot be read, holds no mapping, or see :func:`parse_yaml`; names the file.
    """
    text = read_text_file(path)
    with name_place(path):
        value = parse_yaml(text)
        if not isinstance(value, dict):
            raise InputError(f"must be a mapping of keys, not {type(value).__name__}.")
    return value


def parse_yaml(text: str) -> Any:
    """Parse one YAML document of plain data: mappings from text, lists, text, numbers, booleans and null.

    Dates stay text, as in JSON.

    Raises:
        InputError: says what is wrong, and in which line and column: not YAML, a duplicate key, a key that is not text,
            a tag, an integer of more than 64 bits, too many values or too many levels.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"YAML of {len(text):,} characters; the limit is {MAX_CHARACTERS:,}")
    try:
        return _copy(yaml.load(text, Loader=_StrictLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{where}invalid YAML: {_describe(error)}") from error


def _copy(value: Any) -> Any:
    """Copy a value whose parts several aliases share, so that a change of one place changes no other."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _describe(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


class _StrictLoader(yaml.SafeLoader):
    """Refuses what plain data does not need, where a plain loader drops a value, guesses or does not end."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._size = 0
        self._sizes: dict[Node, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event, before = self.peek_event(), self._size
        is_alias = self.check_event(yaml.AliasEvent)
        if tag := getattr(event, "tag", None):
            raise _refuse(event, f"the tag '{tag}' has no meaning here")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refuse(event, f"nested too deeply, more than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias and node not in self._sizes:
            raise _refuse(event, f"the alias '{event.anchor}' is inside of what it stands for")
        self._size += self._sizes[node] if is_alias else 1
        if not is_alias:
            self._sizes[node] = self._size - before
        if self._size > MAX_NODES:
            raise _refuse(event, f"more than {MAX_NODES:,} values")
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        named = set()
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if key.tag != f"{_TAG}str":
                shown = f"'{key.value}'" if isinstance(key, ScalarNode) else "a list or mapping"
                raise _refuse(key, f"the key {shown} is not text; put it in quotes")
            if key.value in named:
                raise _refuse(key, f"duplicate key '{key.value}'")
            named.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: ScalarNode | MappingNode) -> Any:
        value = super().construct_scalar(node)
        if _HALF_CHARACTER.search(value):
            raise _refuse(node, "half of a character (an escaped surrogate)")
        return value

    def construct_yaml_int(self, node: ScalarNode) -> int:
        """Construct an integer; ``12:30`` is not one, other than in YAML 1.1, where it is 750."""
        try:
            value = super().construct_yaml_int(node)
        except ValueError:
            value = None
        if value is None or abs(value) > _MAX_INTEGER or ":" in node.value:
            raise _refuse(node, f"'{node.value[:40]}' is not an integer of 64 bits; put text in quotes")
        return value

    def construct_yaml_float(self, node: ScalarNode) -> float:
        if ":" in node.value:
            raise _refuse(node, f"'{node.value[:40]}' is not a number; put text in quotes")
        return super().construct_yaml_float(node)


def _refuse(place: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"{_TAG}{_kind}", getattr(_StrictLoader, f"construct_yaml_{_kind}"))
_StrictLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}timestamp", f"{_TAG}value")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def to_yaml(data: Any) -> str:
    """Write ``data`` as YAML, with its order of keys and without escaping other scripts.

    PyYAML writes U+0085 unescaped but reads it as a space, so data with that character is written in ASCII.
    """
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return yaml.safe_dump(data, sort_keys=False) if "\x85" in text else text
