"""Files and folders that are there whole, or not at all."""

from pathlib import Path

import pytest

from lora_mm.atomic import atomic_folder, write_atomically
from lora_mm.errors import InputError, LoraMMError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
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
def test_of_a_folder_that_fails_nothing_is_left(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(tmp_path / "out", error)
    assert names(tmp_path) == set()


def test_a_folder_appears_with_all_that_is_in_it_also_in_place_of_an_empty_one(tmp_path: Path) -> None:
    for place in (tmp_path / "deep" / "er", tmp_path / "empty"):
        with atomic_folder(place) as folder:
            (folder / "file").write_text("whole")
        assert (place / "file").read_text() == "whole"
        (tmp_path / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match="exists; name another folder"), atomic_folder(place):
        pass
    assert (place / "file").read_text() == "whole"
