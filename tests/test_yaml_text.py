"""YAML loads as what was written, and what cannot be held is refused."""

from itertools import pairwise

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lora_mm.yaml_text import parse_yaml, to_yaml


@example({"a": "one\x85two"})
@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_yaml_loads_as_what_was_written(data: dict[str, str]) -> None:
    assert yaml.safe_load(to_yaml(data)) == data
    assert list(yaml.safe_load(to_yaml(data))) == list(data)


def test_other_scripts_are_not_escaped() -> None:
    assert to_yaml({"имя": "картина"}) == "имя: картина\n"


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("[" * 10_000, "nested too deeply"),
        ("a: 2001-13-45", "month must be in 1..12"),
    ],
)
def test_yaml_that_cannot_be_held_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_aliases_are_read() -> None:
    assert parse_yaml("a: &a [1]\nb: *a\n") == {"a": [1], "b": [1]}
