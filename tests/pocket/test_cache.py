"""The cache of drawn data: its key changes with the code that draws, and the drawn bytes stay what they are."""

import ast
import hashlib
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lora_mm.pocket import cache
from lora_mm.pocket.cache import DRAWING_MODULES, hash_drawing_code, prepare_pocket_data
from lora_mm.pocket.own_data import OWN_DATA_SETS
from lora_mm.pocket.world import WORLDS

PACKAGE = Path(cache.__file__).parent

GOLDEN = {
    "pocket": (300, "e1819121ba291c4e"),
    "pocket-details": (40, "278920bace9e5f80"),
    "pocket-captions": (100, "2fd35922bd84e45b"),
    "pocket-short-answers": (100, "31ab53ee6678d4e9"),
    "pocket-charts": (100, "d981cbf55838d4c9"),
    "pocket-labels": (100, "78b76e3ffaa28023"),
}
"""Size, and hash of texts and pixels, of what seed 0 draws. A change here makes published scores hard to compare."""


def hash_contents(folder: Path) -> str:
    """A hash of names, texts and pixels; compressed bytes can differ between versions of zlib."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(Image.open(file).tobytes() if file.suffix == ".png" else file.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", [*WORLDS, *OWN_DATA_SETS])
def test_drawn_data_is_what_it_always_was(name: str, home: Path) -> None:
    size, expected = GOLDEN[name]
    folder = prepare_pocket_data(name, 0, size)
    assert folder.is_relative_to(home)
    assert hash_contents(folder) == expected


def test_data_is_drawn_once(home: Path) -> None:
    folder = prepare_pocket_data("pocket-labels", 0, 100)
    (folder / "mine").touch()
    assert prepare_pocket_data("pocket-labels", 0, 100) == folder
    assert (folder / "mine").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the modules of ``lora_mm.pocket``."""
    copy = tmp_path / "pocket"
    copy.mkdir()
    for file in PACKAGE.glob("*.py"):
        shutil.copy(file, copy)
    return copy


@pytest.mark.parametrize("name", sorted(file.stem for file in PACKAGE.glob("*.py")))
def test_the_key_changes_with_the_modules_that_draw_and_no_others(package: Path, name: str) -> None:
    before = hash_drawing_code(package)
    assert before == hash_drawing_code()
    with (package / f"{name}.py").open("a") as file:
        file.write("# changed")
    assert (hash_drawing_code(package) != before) is (name in DRAWING_MODULES)


def test_the_key_covers_every_module_that_the_drawing_imports() -> None:
    imported, pending = set(), ["world", "own_data"]
    while pending:
        name = pending.pop()
        imported.add(name)
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lora_mm.pocket"):
                module = node.module.removeprefix("lora_mm.pocket").removeprefix(".")
                names = [module] if module else [alias.name for alias in node.names]
                pending += [name for name in names if name not in imported]
    assert imported == set(DRAWING_MODULES)


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_mm.errors import LoraMMError

    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with pytest.raises(LoraMMError, match="pocket data cannot be written"):
        prepare_pocket_data("pocket-labels", 0, 100)
