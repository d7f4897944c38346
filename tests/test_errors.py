"""Messages stay short, whatever the data that they quote."""

import pytest

from lora_mm.errors import InputError, name_place


def test_a_word_that_is_longer_than_any_name_is_cut() -> None:
    error = InputError("id " + "x" * 5000 + " is listed twice", "short")
    assert str(error) == "id " + "x" * 99 + "… is listed twice\nshort"
    assert error.faults == tuple(str(error).splitlines())


def test_each_fault_is_named_by_its_place() -> None:
    with pytest.raises(InputError) as caught, name_place("rows.jsonl:3"):
        raise InputError("a", "b")
    assert caught.value.faults == ("rows.jsonl:3: a", "rows.jsonl:3: b")
