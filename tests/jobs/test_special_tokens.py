"""Answers made of a base's own special tokens: learnt, generated, scored, chatted and checked."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer, GenerationConfig

import lora_mm
from lora_mm.data.check import check_data
from lora_mm.data.example import Turn
from lora_mm.errors import InputError
from lora_mm.jobs.evaluate import evaluate
from lora_mm.jobs.finetune import RunResult, finetune
from lora_mm.jobs.inference import load_adapted
from lora_mm.jobs.session import make_collator_without_weights
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from tests.helpers.bases import make_family_base
from tests.helpers.own import sound_row, write_rows
from tests.helpers.tiny import make_recipe

BOX = ["<|box_start|>", "<|box_end|>"]
ANSWER = "<|box_start|>(1,2),(3,4)<|box_end|>"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("boxes")
    base = make_family_base(folder / "base", "qwen2_vl")
    GenerationConfig(eos_token_id=2, pad_token_id=0).save_pretrained(base)
    rows = [{**sound_row(folder, number), "answer": ANSWER} for number in range(16)]
    data = {"path": str(write_rows(folder, rows)), "format": "QCM-A", "eval_share": 0.2, "special_tokens": BOX}
    file = make_recipe(
        folder / "boxes.yaml",
        base,
        folder,
        data=data,
        adapters=["lora"],
        train=["head"],
        training={"max_steps": 80, "learning_rate": 1e-2, "save_steps": 80},
        evaluation={"metric": "exact", "base": False},
    )
    return load_recipe(str(file))


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    result = finetune(recipe, tmp_path_factory.mktemp("runs") / "boxes", Console(quiet=True))
    assert result is not None
    return result


def test_boxes_are_learnt_generated_and_scored(finished: RunResult) -> None:
    assert finished.scores["adapter"].columns["accuracy"].value == 100
    assert {answer.prediction.strip() for answer in finished.answers["adapter"]} == {ANSWER}


def test_a_saved_adapter_is_scored_and_talks_alike(finished: RunResult) -> None:
    again = evaluate(finished.folder, console=Console(quiet=True))
    assert again.scores["adapter"] == finished.scores["adapter"]
    pieces: list[str] = []
    model = load_adapted([str(finished.folder)])
    assert model.reply([Turn("user", "Which is 3?")], max_new_tokens=20, write=pieces.append) == ANSWER
    assert "".join(pieces).strip() == ANSWER


def test_choices_of_such_tokens_are_compared_by_likelihood(finished: RunResult, recipe: Recipe, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": f"Which is {n}?", "choices": ["<|box_start|>(9,9)<|box_end|>", ANSWER], "answer": ANSWER}
        for n in range(4)
    ]
    file = write_rows(tmp_path, rows, "choices.jsonl")
    settings = [f"data.path={file}", "data.eval_share=0.5", "evaluation.metric=choice"]
    scored = evaluate(finished.folder, overrides=settings, console=Console(quiet=True))
    assert scored.scores["adapter"].columns["accuracy"].value == 100


def test_the_adapter_folder_keeps_the_tokens(finished: RunResult, recipe: Recipe) -> None:
    facts = json.loads((finished.folder / "preprocessing.json").read_text())
    assert facts["inputs"]["special_tokens"] == sorted(BOX)
    tokenizer = lora_mm.load_processor(recipe.base.model, finished.folder).tokenizer
    assert tokenizer.decode(tokenizer(ANSWER)["input_ids"], skip_special_tokens=True) == ANSWER
    with pytest.raises(InputError, match="special_tokens: trained with"):
        load_adapted([str(finished.folder)], ["data.special_tokens=[]"])


def test_the_check_names_the_key_as_the_way_out(recipe: Recipe) -> None:
    assert check_data(recipe, ["train"], make_collator_without_weights(recipe)).sound
    section = recipe.data.model_copy(update={"special_tokens": []})
    without = recipe.model_copy(update={"data": section})
    report = check_data(without, ["train"], make_collator_without_weights(without))
    assert not report.sound
    assert "contains '<|box_start|>', a special token" in report.splits["train"].faults.lines[0]
    assert "data.special_tokens" in report.splits["train"].faults.lines[0]


def test_a_merged_model_keeps_them_for_plain_transformers(finished: RunResult, tmp_path: Path) -> None:
    lora_mm.merge([finished.folder], tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.decode(tokenizer(ANSWER)["input_ids"], skip_special_tokens=True) == ANSWER
