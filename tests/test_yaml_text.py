"""YAML loads as what was written."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lora_mm.yaml_text import to_yaml


@example({"a": "one\x85two"})
@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_yaml_loads_as_what_was_written(data: dict[str, str]) -> None:
    assert yaml.safe_load(to_yaml(data)) == data
    assert list(yaml.safe_load(to_yaml(data))) == list(data)


def test_other_scripts_are_not_escaped() -> None:
    assert to_yaml({"имя": "картина"}) == "имя: картина\n"
