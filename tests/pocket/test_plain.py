"""Pocket data in the plain layouts: the same bytes by seed, whole, and read by the own-data loader."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lora_mm.cli.data import app
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.pocket.plain import PLAIN_KINDS, make_rows
from lora_mm.recipe.load import load_recipe


def mark(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


@pytest.mark.parametrize("name", PLAIN_KINDS)
def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, name: str) -> None:
    counts = make_rows(tmp_path / "one", name, seed=3, size=100)
    assert counts == {"train": 80, "test": 20}
    make_rows(tmp_path / "two", name, seed=3, size=100)
    make_rows(tmp_path / "other", name, seed=4, size=100)
    assert mark(tmp_path / "one") == mark(tmp_path / "two") != mark(tmp_path / "other")


@pytest.mark.parametrize("name", PLAIN_KINDS)
def test_no_picture_is_there_twice_and_every_row_is_read(tmp_path: Path, name: str) -> None:
    make_rows(tmp_path / "data", name, size=150)
    pictures = [file.read_bytes() for file in (tmp_path / "data" / "images").iterdir()]
    assert len(set(pictures)) == len(pictures) == 150
    question = "What is it?" if name == "pocket-captions" else None
    recipe = load_recipe("own-data-pocket", [f"data.path={tmp_path / 'data'}", f"data.question={json.dumps(question)}"])
    train, test = load_split(recipe, "train"), load_split(recipe, "test")
    assert (len(train.examples), len(test.examples)) == (120, 30)
    first = train.examples[0]
    assert first.images
    assert first.target
    if name == "pocket-short-answers":
        assert len(first.references) == 10
        assert first.references.count(first.target) >= 5
    if name == "pocket-charts":
        assert first.answer is not None
        assert first.candidates[first.answer] == first.target


def test_what_is_there_and_sizes_out_of_range_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(InputError, match="exists; name another folder"):
        make_rows(tmp_path / "mine", "pocket-labels", size=100)
    for size in (99, 15_001):
        with pytest.raises(InputError, match="has 100 to 15000 rows"):
            make_rows(tmp_path / "new", "pocket-labels", size=size)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]


@pytest.mark.parametrize("name", PLAIN_KINDS)
def test_the_command_writes_what_the_function_writes(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(app, ["make", name, "--output", str(tmp_path / "made"), "--size", "100", "--seed", "3"])
    assert done.exit_code == 0
    assert done.stdout == f"Wrote {tmp_path / 'made'}: 80 training rows, 20 test rows, seed 3.\n"
    make_rows(tmp_path / "same", name, seed=3, size=100)
    assert mark(tmp_path / "made") == mark(tmp_path / "same")
