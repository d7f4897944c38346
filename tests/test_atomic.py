"""Files and folders appear complete or not at all."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_mm.atomic import PREFIX, atomic_file, atomic_folder, check_writable, remove_leftovers, write_atomically
from lora_mm.errors import InputError, LoraMMError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_file_is_complete_or_unchanged(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(LoraMMError, match="cannot be written"):
        write_atomically(tmp_path / "taken", "new")
    write_atomically(tmp_path / "new" / "file", "new")
    assert names(tmp_path) == {"taken", "new", "file"}


def test_a_link_that_waits_at_an_old_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "scores.json.part").symlink_to(tmp_path / "mine")
    (tmp_path / "scores.json").symlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "scores.json", "new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "scores.json").is_symlink()


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(TypeError), atomic_file(tmp_path / "file") as stream:
        stream.writelines([b"half", "text"])  # type: ignore[list-item]
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == {"file"}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_files_and_folders_have_the_permissions_of_new_ones(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "x")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "private").touch(0o600)  # as safetensors writes
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "folder/private")]
    assert [oct(mode) for mode in modes] == ["0o640", "0o750", "0o640"]


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    now = time.time()
    old, young, busy, other = (tmp_path / f"{PREFIX}{name}" for name in ("a" * 16, "b" * 16, "c" * 16, "mine"))
    for folder in (old, young, busy, other):
        folder.mkdir()
        (folder / "half").touch()
        age = 0 if folder == young else 100_000
        os.utime(folder / "half", (now, now if folder == busy else now - age))
        os.utime(folder, (now, now - age))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{PREFIX}{'d' * 16}").symlink_to(tmp_path / "elsewhere")
    assert remove_leftovers(tmp_path) == [old]
    assert names(tmp_path) >= {young.name, busy.name, other.name, "elsewhere"}
    assert not old.exists()


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


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    """A folder, a name that is too long, and a folder that would be made in a file; all are named at once."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    wrong = [tmp_path / "folder", tmp_path / ("x" * 256), tmp_path / "file" / "deep" / "a", tmp_path / "file" / "a"]
    if Path("/proc/self").is_dir():
        wrong.append(Path("/proc/self/a"))
    before = names(tmp_path)
    for path in wrong:
        with pytest.raises(LoraMMError, match="cannot be written"):
            write_atomically(path, "new")
    with pytest.raises(LoraMMError) as error:
        check_writable(tmp_path / "new", *wrong)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [str(path) for path in wrong]
    check_writable(tmp_path / "file", tmp_path / "new" / "er" / "file")
    assert names(tmp_path) == before


def test_a_folder_that_would_be_made_in_a_file_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoraMMError, match="Not a directory"), atomic_folder(tmp_path / "file" / "deep" / "out"):
        pytest.fail("the work began")
