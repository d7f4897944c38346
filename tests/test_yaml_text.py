"""YAML is read strictly, or refused with its place; what is written as YAML loads as the same data."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lora_mm.errors import InputError
from lora_mm.yaml_text import parse_yaml, read_yaml_mapping, to_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A kilobyte that stands for 387 million values."""


@example({"a": "one\x85two"})
@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_yaml_loads_as_what_was_written(data: dict[str, str]) -> None:
    assert yaml.safe_load(to_yaml(data)) == parse_yaml(to_yaml(data)) == data
    assert list(parse_yaml(to_yaml(data))) == list(data)


def test_other_scripts_are_not_escaped() -> None:
    assert to_yaml({"имя": "картина"}) == "имя: картина\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeffa: 1\r\nb: [x, 2.5, yes, null]\r\n", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("day: 2024-01-01", {"day": "2024-01-01"}),
        ("time: 2024-01-01 10:00:00", {"time": "2024-01-01 10:00:00"}),
        ("a: =", {"a": "="}),
        ("a: &x {p: 1}\nb: {<<: *x, q: 2}\nc: *x", {"a": {"p": 1}, "b": {"p": 1, "q": 2}, "c": {"p": 1}}),
        ("", None),
    ],
)
def test_plain_data_is_read(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


def test_aliases_share_nothing() -> None:
    value = parse_yaml("a: &x {p: [1]}\nb: *x")
    value["a"]["p"].append(2)
    assert value["b"] == {"p": [1]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rate: 0.5\nother: 1\nrate: 0.1", "line 3, column 1: invalid YAML: duplicate key 'rate'"),
        ("a: {b: 1, b: 1}", "line 1, column 11: invalid YAML: duplicate key 'b'"),
        ("a: 0x_", "line 1, column 4: invalid YAML: '0x_' is not an integer of 64 bits"),
        ("a: " + "9" * 5000, "is not an integer of 64 bits"),
        ("a: 12:30", "'12:30' is not an integer"),
        ("a: 190:20:30.15", "'190:20:30.15' is not a number"),
        ("a: " + "[" * 3000, "nested too deeply, more than 50 levels"),
        (LAUGHS, "more than 20,000 values"),
        ("a: &a [*a]", "the alias 'a' is inside of what it stands for"),
        ("a: *b", "undefined alias 'b'"),
        ("1: 2", "the key '1' is not text; put it in quotes"),
        ("yes: 2", "the key 'yes' is not text"),
        ("? [a]\n: 1", "the key a list or mapping is not text"),
        ("a: !!python/object:os.system x", "the tag 'tag:yaml.org,2002:python/object:os.system' has no meaning here"),
        ("a: !!binary aGk=", "the tag 'tag:yaml.org,2002:binary'"),
        ("a: \x00", "unacceptable character #x0000"),
        ('a: "\\ud800"', "half of a character"),
        ("a: 1\n---\nb: 2", "another document"),
        ("# " + "x" * 1_000_000, "the limit is 1,000,000"),
    ],
)
def test_what_a_plain_loader_drops_guesses_or_does_not_end_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text)
    assert fault in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("[1]")
    with pytest.raises(InputError, match=r"a\.yaml: must be a mapping of keys, not list"):
        read_yaml_mapping(file)
    file.write_bytes("name: \u00e4".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.yaml: not UTF-8 text \(byte 6\); save it as UTF-8"):
        read_yaml_mapping(file)
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        read_yaml_mapping(tmp_path / "none.yaml")
