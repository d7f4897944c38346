"""Files and folders appear complete or not at all."""

from pathlib import Path

import pytest

from lora_mm.atomic import atomic_folder, write_atomically
from lora_mm.errors import InputError, LoraMMError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_file_is_complete_or_unchanged(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(LoraMMError, match="cannot be written"):
        write_atomically(tmp_path / "taken", "new")
    write_atomically(tmp_path / "new" / "file", "new")
    assert names(tmp_path) == {"taken", "new", "file"}


def fail(output: Path, error: BaseException) -> None:
    with atomic_folder(output) as folder:
        (folder / "half").touch()
        assert not output.exists()
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_failure_leaves_no_folder(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(tmp_path / "out", error)
    assert names(tmp_path) == set()


def test_a_folder_appears_complete_and_can_replace_an_empty_one(tmp_path: Path) -> None:
    for place in (tmp_path / "deep" / "er", tmp_path / "empty"):
        with atomic_folder(place) as folder:
            (folder / "file").write_text("whole")
        assert (place / "file").read_text() == "whole"
        (tmp_path / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match="exists; name another folder"), atomic_folder(place):
        pass
    assert (place / "file").read_text() == "whole"
