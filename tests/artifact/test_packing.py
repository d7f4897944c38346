"""Packed adapters: the same bytes every time, all files of the adapter, and nothing else read from one."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_mm.artifact import files
from lora_mm.artifact.files import LIMITS, WEIGHTS
from lora_mm.artifact.outgoing import copy_to_send
from lora_mm.artifact.packing import pack_adapter, unpack_adapter
from lora_mm.errors import InputError, LoraMMError


@pytest.fixture
def folder(trained: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a finished run, to spoil."""
    return shutil.copytree(trained["one"], tmp_path / "adapter")


@pytest.fixture(scope="module")
def packed(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "one.tar"
    pack_adapter(trained["one"], file)
    return file


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        work()
    return str(error.value)


def repacked(packed: Path, file: Path, *more: tuple[tarfile.TarInfo, bytes], without: str = "") -> Path:
    """A packed adapter with more members, as somebody else might write it."""
    with tarfile.open(packed) as old, tarfile.open(file, "w") as new:
        for member in old:
            if member.name != without:
                new.addfile(member, old.extractfile(member))
        for member, data in more:
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return file


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_packing_and_unpacking_keeps_every_file(packed: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    unpack_adapter(packed, tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").iterdir()} == set(LIMITS)
    with copy_to_send(trained["one"], lambda line: None) as copies:
        for file in copies:
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_the_same_adapter_gives_the_same_bytes(packed: Path, folder: Path, tmp_path: Path) -> None:
    """In another folder, with other times and permissions, and with checkpoints beside it."""
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    (folder / WEIGHTS).chmod(0o600)
    (folder / "notes.txt").write_text("mine")
    assert (folder / "checkpoints").is_dir()
    assert pack_adapter(folder, tmp_path / "again.tar") == packed.stat().st_size
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()


def test_an_adapter_without_card_and_scores_packs_too(folder: Path, tmp_path: Path) -> None:
    (folder / files.CARD).unlink()
    (folder / files.SCORES).unlink()
    pack_adapter(folder, tmp_path / "small.tar")
    unpack_adapter(tmp_path / "small.tar", tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").iterdir()} == set(files.REQUIRED)


def test_an_existing_file_or_folder_is_not_overwritten(packed: Path, folder: Path, tmp_path: Path) -> None:
    before = packed.read_bytes()
    assert "exists; name another file" in refusal(lambda: pack_adapter(folder, packed))
    assert packed.read_bytes() == before
    assert "exists; name another folder" in refusal(lambda: unpack_adapter(packed, folder))


def test_an_unwritable_place_is_reported_and_nothing_is_left(packed: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LoraMMError, match="cannot be written"):
        pack_adapter(folder, tmp_path / "file" / "a.tar")
    with pytest.raises(LoraMMError, match="cannot be written"):
        unpack_adapter(packed, tmp_path / "file" / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "file"]


def test_a_file_above_its_limit_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / files.CARD).write_text("x" * (LIMITS[files.CARD] + 1))
    assert "README.md has 1,000,001 bytes; the limit is 1,000,000." in refusal(
        lambda: pack_adapter(folder, tmp_path / "a.tar")
    )


def test_a_pickle_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"")
    assert "adapter_model.bin" in refusal(lambda: pack_adapter(folder, tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (entry("../escaped.txt"), "'../escaped.txt' would be written outside the folder."),
        (entry("a/../../escaped.txt"), "would be written outside the folder."),
        (entry("/tmp/escaped.txt"), "would be written outside the folder."),
        (entry("link", tarfile.SYMTYPE, "/etc/passwd"), "'link' is not a regular file."),
        (entry("scores.json", tarfile.LNKTYPE, "/etc/passwd"), "'scores.json' is not a regular file."),
        (entry("scores.json", tarfile.SYMTYPE, "../../x"), "'scores.json' is not a regular file."),
        (entry("device", tarfile.CHRTYPE), "'device' is not a regular file."),
        (entry("pipe", tarfile.FIFOTYPE), "'pipe' is not a regular file."),
        (entry("folder", tarfile.DIRTYPE), "'folder' is not a regular file."),
        (entry("scores.json", tarfile.GNUTYPE_SPARSE), "'scores.json' is not a regular file."),
        (entry("././@PaxHeader", tarfile.XHDTYPE), "'././@PaxHeader' is not a regular file."),
        (entry("././@LongLink", tarfile.GNUTYPE_LONGNAME), "'././@LongLink' is not a regular file."),
        (entry("run.sh"), "'run.sh' is not a file of an adapter"),
        (entry("inside/scores.json"), "'inside/scores.json' is not a file of an adapter"),
        (entry("./scores.json"), "'./scores.json' is not a file of an adapter"),
        (entry("recipe.yaml"), "'recipe.yaml' occurs 2 times."),
        (entry("adapter_model.bin"), "holds a pickle ('adapter_model.bin')"),
        (entry("Data.PKL"), "holds a pickle ('Data.PKL')"),
    ],
)
def test_an_unexpected_member_is_refused_and_nothing_is_written(
    packed: Path, tmp_path: Path, member: tarfile.TarInfo, words: str
) -> None:
    without = "scores.json" if member.name == "scores.json" else ""
    data = b"" if member.type != tarfile.REGTYPE else b"x"
    file = repacked(packed, tmp_path / "evil.tar", (member, data), without=without)
    message = refusal(lambda: unpack_adapter(file, tmp_path / "inside" / "a"))
    assert words in message
    assert str(file) in message
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]


def test_all_faults_are_listed_at_once(packed: Path, tmp_path: Path) -> None:
    file = repacked(packed, tmp_path / "evil.tar", (entry("../a"), b""), (entry("b"), b""))
    assert len(refusal(lambda: unpack_adapter(file, tmp_path / "a")).splitlines()) == 2


def test_size_and_number_of_members_are_limited(packed: Path, tmp_path: Path) -> None:
    large = repacked(packed, tmp_path / "large.tar", (entry("README.md"), bytes(1_000_001)), without="README.md")
    assert "README.md has 1,000,001 bytes" in refusal(lambda: unpack_adapter(large, tmp_path / "a"))
    many = repacked(packed, tmp_path / "many.tar", *((entry(f"{n}"), b"") for n in range(100)))
    assert "more files than a packed adapter has" in refusal(lambda: unpack_adapter(many, tmp_path / "a"))
    # A header may claim 8 GB in a file of a few kilobytes.
    header = entry("adapter_model.safetensors")
    header.size = 8_000_000_000
    (tmp_path / "promise.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))
    assert refusal(lambda: unpack_adapter(tmp_path / "promise.tar", tmp_path / "a"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("size", [-1, -512, -(2**40), 2**62])
def test_sizes_that_no_file_has_are_refused(packed: Path, tmp_path: Path, size: int) -> None:
    """A negative one would lead a reader back to where it was, for ever."""
    header = entry("scores.json")
    header.size = size
    file = tmp_path / "evil.tar"
    file.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + packed.read_bytes())
    assert f"'scores.json' has {size:,} bytes" in refusal(lambda: unpack_adapter(file, tmp_path / "a"))


@pytest.mark.parametrize("more", [b"more", bytes(20_000)])
def test_nothing_may_follow_the_end(packed: Path, tmp_path: Path, more: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(packed.read_bytes() + more)
    assert "followed by something else" in refusal(lambda: unpack_adapter(tmp_path / "a.tar", tmp_path / "a"))


def test_packed_and_unpacked_files_have_the_permissions_of_new_ones(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    unpack_adapter(packed, tmp_path / "a")
    modes = {file.stat().st_mode for file in (packed, tmp_path / "new", *(tmp_path / "a").iterdir())}
    assert len(modes) == 1


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_a_compressed_file_is_refused(packed: Path, tmp_path: Path, compression: str) -> None:
    with tarfile.open(packed) as old, tarfile.open(tmp_path / "small.tar", f"w:{compression}") as new:  # type: ignore[call-overload]
        for member in old:
            new.addfile(member, old.extractfile(member))
    assert "not a packed adapter" in refusal(lambda: unpack_adapter(tmp_path / "small.tar", tmp_path / "a"))


def test_a_missing_file_is_reported_for_the_packed_file(packed: Path, tmp_path: Path) -> None:
    file = repacked(packed, tmp_path / "part.tar", without="recipe.yaml")
    assert refusal(lambda: unpack_adapter(file, tmp_path / "a")) == (
        f"{file}: not an adapter folder of lora-mm; it lacks recipe.yaml."
    )
    assert not (tmp_path / "a").exists()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_unpacked_whole(
    data: st.DataObject, packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut anywhere, or with a byte changed anywhere in its first headers."""
    whole = bytearray(packed.read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, 511))] ^= data.draw(st.integers(1, 255))
    root = tmp_path_factory.mktemp("damaged")
    (root / "a.tar").write_bytes(whole)
    try:
        unpack_adapter(root / "a.tar", root / "a")
    except InputError:
        assert [path.name for path in root.iterdir()] == ["a.tar"]
    else:
        assert (root / "a" / WEIGHTS).is_file()
