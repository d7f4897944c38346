"""Whole runs on a user's own data, on a tiny base."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lora_mm.errors import InputError
from lora_mm.jobs.evaluate import evaluate
from lora_mm.jobs.finetune import RunResult, finetune
from lora_mm.recipe.load import load_recipe
from tests.helpers.own import Broken, sound_row, write_rows
from tests.helpers.tiny import make_recipe


def run(folder: Path, base: Path, data: dict[str, Any], **training: Any) -> tuple[RunResult, str]:
    file = make_recipe(folder / "own.yaml", base, folder, data={"path": None, "format": "QCM-A", **data})
    console = Console(file=io.StringIO(), width=200)
    settings = {"max_steps": 2, "save_steps": 2, **training}
    overrides = [f"training.{name}={value}" for name, value in settings.items()]
    outcome = finetune(load_recipe(str(file), overrides), folder / "run", console)
    assert outcome is not None
    assert isinstance(console.file, io.StringIO)
    return outcome, console.file.getvalue()


def test_a_run_on_own_rows(base_folder: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path, [sound_row(tmp_path, number) for number in range(20)])
    outcome, told = run(tmp_path, base_folder, {"path": str(file), "eval_share": 0.2}, dataloader_num_workers=1)
    assert "train: 16 of 16 rows used (question_answer)" in told
    assert "test: 4 of 4 rows used (question_answer)" in told
    assert outcome.figures["train_rows"] == 16
    assert outcome.figures["test_rows"] == 4
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


def test_questions_that_are_too_long_are_refused_before_training_or_left_out(base_folder: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path, [sound_row(tmp_path, number) for number in range(8)])
    asked = [
        {"id": "long", "question": "Which? " * 300, "answer": "this"},
        {"id": "short", "question": "?", "answer": "a"},
    ]
    data = {"path": str(train), "eval_path": str(write_rows(tmp_path, asked, "asked.jsonl"))}
    with pytest.raises(InputError, match=r"long: [\d,]+ tokens to ask, more than data.max_length=256"):
        run(tmp_path, base_folder, data)
    outcome, told = run(tmp_path, base_folder, {**data, "overlong": "drop"})
    assert "test: questions left out of the score as too long: 1" in told
    assert outcome.figures["test_rows"] == 1
    found = evaluate(tmp_path / "run", console=Console(quiet=True))
    assert [example.id for example in found.examples] == ["short"]
    assert found.scores["adapter"] == outcome.scores["adapter"]
    assert "too long: 1" in found.account


def test_a_mixture_of_conversations_choices_and_questions(base_folder: Path, tmp_path: Path) -> None:
    rows = [sound_row(tmp_path, number) for number in range(1, 13)]
    talk = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes."}]
    files = {
        "plain": rows,
        "talks": [{"conversations": [talk[0] | {"value": f"{n}?"}, talk[1], *talk]} for n in range(6)],
        "choices": [{"question": f"Which is {n}?", "choices": ["a", "b"], "answer": "b"} for n in range(6)],
    }
    sources: list[dict[str, Any]] = [
        {"path": str(write_rows(tmp_path, made, f"{name}.jsonl"))} for name, made in files.items()
    ]
    sources[0] |= {"cap": 6, "response": "short"}
    data = {"sources": sources, "sampling": "sqrt", "eval_share": 0.2}
    _, told = run(tmp_path, base_folder, data)
    assert "question_answer" in told
    assert "conversations" in told
    assert "multiple_choice" in told
    lines = [line.split() for line in told.splitlines()]
    assert ["total", "20", "0", "20", "16", "16"] in lines


def test_faulty_rows_end_a_run_or_are_counted(base_folder: Path, tmp_path: Path) -> None:
    made = Broken.of(tmp_path, ["sound", "empty answer", *["sound"] * 9, "truncated picture", "control character"])
    other = write_rows(tmp_path, [sound_row(tmp_path, 50), {"id": 1, "question": "?", "answer": 3}], "other.jsonl")
    data = {"path": str(made.file), "eval_path": str(other)}
    with pytest.raises(InputError) as caught:
        run(tmp_path, base_folder, data)
    named = {fault.split(": ")[0] for fault in caught.value.faults}
    assert {*made.broken, "other.jsonl:2"} <= named, "of both splits at once"
    assert not (tmp_path / "run").exists()
    spoilt = json.loads(made.file.read_text().splitlines()[0]) | {"id": "spoilt", "answer": "a </s> b"}
    made.file.write_text(made.file.read_text() + json.dumps(spoilt) + "\n")
    outcome, told = run(tmp_path, base_folder, data | {"faulty_rows": "drop"})
    assert outcome.figures["train_rows"] == len(made.sound)
    assert "train: 11 of 14 rows used (question_answer); 3 faulty rows dropped" in told
    assert "1 dropped as faulty, for example spoilt: the text contains '</s>'" in told
