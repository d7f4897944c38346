"""Paths that no file can have are refused by name, and text that is not UTF-8 with the way to convert it."""

from pathlib import Path

import pytest

from lora_mm.errors import InputError
from lora_mm.paths import read_text_file, resolve_path


def test_a_path_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/a.yaml", "recipe") == tmp_path / "a.yaml"
    assert resolve_path("none/none", "recipe") == Path("none/none")
    (tmp_path / "file").write_text("")
    assert resolve_path(tmp_path / "file" / "inside", "recipe") == tmp_path / "file" / "inside"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("~nobody-of-this-name/a", "no user of this name"),
        ("a\0b", "'a\\x00b' is not a valid path"),
        ("\udcff.yaml", "'\\udcff.yaml' is not a valid path"),
        ("a" * 5000, "File name too long"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_path(text, "--output")
    assert str(caught.value).startswith("--output: ")
    assert fault in str(caught.value)
    assert len(str(caught.value)) < 250


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match=r"data: .*Too many levels of symbolic links"):
        resolve_path(tmp_path / "a", "data")


def test_text_that_is_not_utf8_says_how_to_convert_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("ä".encode("utf-16"))
    with pytest.raises(InputError, match=r"a\.txt: not UTF-8 text \(byte 0\); save it as UTF-8, .*iconv -f UTF-16"):
        read_text_file(file)
    file.write_bytes(b"\xef\xbb\xbfhello\r\n")
    assert read_text_file(file).startswith("hello")
    with pytest.raises(InputError, match="Is a directory"):
        read_text_file(tmp_path)
