"""JSON is read whole and strictly, or refused with the file, the place and the cause."""

from pathlib import Path

import pytest

from lora_mm.errors import InputError
from lora_mm.json_text import read_json_file


def test_any_value_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text('{"a": [1, {"b": "ü"}]}', encoding=encoding)
        assert read_json_file(file) == {"a": [1, {"b": "ü"}]}
    file.write_text("3")
    assert read_json_file(file) == 3
    file.write_text("[" * 100 + "]" * 100)
    read_json_file(file)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b'{"a": "wor', "not JSON: Unterminated string starting at at line 1 column 7; the text is cut off"),
        (b'{"a" 1}', "not JSON: Expecting ':' delimiter at line 1 column 6"),
        (b"\xff", "not UTF-8 text (byte 0)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 101 + b"]" * 101, "nested too deeply, more than 100 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer with more digits than can be read"),
    ],
)
def test_a_fault_names_the_file_and_the_cause(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json_file(file)
    [line] = caught.value.faults
    assert line.startswith(f"{file}: ")
    assert fault in line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: No such file"):
        read_json_file(tmp_path / "a.json")
