"""``lora-mm score scienceqa``: the table or one JSON object, without torch and without pictures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lora_mm.cli.score import app
from lora_mm.errors import InputError

ROW = {
    "question": "Which is larger?", "choices": ["a pond", "an ocean"], "answer": 1, "hint": "", "image": "image.png",
    "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "t", "category": "c",
    "skill": "s", "lecture": "", "solution": "", "split": "test",
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four problems of test and one of val, whose pictures are not there."""
    root = tmp_path / "data"
    root.mkdir()
    problems = {str(n): ROW for n in range(1, 5)} | {"5": {**ROW, "split": "val"}}
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps({"test": ["1", "2", "3", "4"], "val": ["5"]}))
    return root


def write(folder: Path, results: dict[str, Any]) -> Path:
    file = folder / "predictions.json"
    file.write_text(json.dumps({"results": results}))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["scienceqa", *map(str, arguments)])


def test_the_table(data: Path) -> None:
    done = run("--data", data, "--predictions", write(data, {"1": 1, "2": 1, "3": 0, "4": -1}))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "ScienceQA test, accuracy in %"
    assert lines[3].split() == ["random", "choice", "50.00", "–", "–", "–", "50.00", "–", "50.00", "–", "50.00"]
    assert lines[4].split() == ["predictions", "50.00", "–", "–", "–", "50.00", "–", "50.00", "–", "50.00"]
    assert "95 % interval of AVG: predictions 15.0 to 85.0." in lines[5]
    assert "predictions 1." in lines[6]


def test_json_is_one_object_and_nothing_else(data: Path) -> None:
    done = run("--data", data, "--predictions", write(data, {"1": 1, "2": 1, "3": 1, "4": 0}), "--json")
    told = json.loads(done.stdout)
    assert (told["split"], told["data"]) == ("test", str(data))
    assert told["scores"]["predictions"]["columns"]["AVG"] == {
        "accuracy": 75.0,
        "correct": 3,
        "total": 4,
        "interval": [30.06, 95.44],
    }
    assert told["scores"]["random choice"]["columns"]["AVG"]["accuracy"] == 50.0


def test_floats_and_negative_indices_are_said_once(data: Path) -> None:
    file = write(data, {"1": 1.0, "2": 1, "3": -5, "4": -2})
    done = run("--data", data, "--predictions", file)
    assert "predictions 2." in done.stdout, "negative indices are counted with the unparsed answers"
    assert done.stdout.splitlines()[-1] == "Whole floats, read as indices: 1. Indices below -1, counted as wrong: 2."
    told = json.loads(run("--data", data, "--predictions", file, "--json").stdout)
    assert (told["floats"], told["negatives"]) == (1, 2)
    assert told["scores"]["predictions"]["columns"]["AVG"]["correct"] == 2


def test_another_split(data: Path) -> None:
    done = run("--data", data, "--predictions", write(data, {"5": 1}), "--split", "val", "--json")
    assert json.loads(done.stdout)["scores"]["predictions"]["columns"]["AVG"]["accuracy"] == 100.0


def test_half_a_file_is_refused_unless_partial(data: Path) -> None:
    file = write(data, {"1": 1, "2": 0})
    refused = run("--data", data, "--predictions", file)
    assert isinstance(refused.exception, InputError)
    assert "2 of 4 problems have no prediction: 3, 4" in str(refused.exception)
    done = run("--data", data, "--predictions", file, "--partial", "--json")
    told = json.loads(done.stdout)["scores"]["predictions"]
    assert (told["missing"], told["columns"]["AVG"]["total"]) == (2, 2)


def test_missing_data_and_file_are_input_errors(data: Path, tmp_path: Path) -> None:
    file = write(data, {"1": 1})
    assert "no such folder" in str(run("--data", tmp_path / "nowhere", "--predictions", file).exception)
    assert "No such file" in str(run("--data", data, "--predictions", tmp_path / "nowhere.json").exception)


def test_scoring_imports_neither_torch_nor_datasets(data: Path) -> None:
    file = write(data, {str(n): 1 for n in range(1, 5)})
    code = (
        "import sys\nfrom lora_mm.cli.score import app\napp(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'torch', 'datasets', 'transformers', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "scienceqa", "--data", str(data), "--predictions", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["scores"]["predictions"]["columns"]["AVG"]["accuracy"] == 100.0
