"""Whole runs on a tiny base: what they leave behind, print and score."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import load_answers
from lora_mm.evaluation.scienceqa import read_results
from lora_mm.jobs.evaluate import Evaluation, evaluate
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.inference import load_adapted
from lora_mm.jobs.run_folder import RunResult, load_scores
from lora_mm.recipe.load import load_recipe
from tests.helpers.runs import console
from tests.helpers.tiny import make_recipe

WEIGHTS = "adapter_model.safetensors"


def asked(folder: Path, **how: Any) -> Evaluation:
    """The adapter in ``folder`` evaluated on its recipe's own questions."""
    return evaluate(folder, console=console(), **how)


# --- what is left behind -------------------------------------------------------------------------------------------


def test_leaves_an_adapter_folder_that_is_whole(finished: tuple[Path, RunResult, str]) -> None:
    folder, outcome, _ = finished
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        WEIGHTS,
        "README.md",
        "recipe.yaml",
        "run.json",
        "preprocessing.json",
        "predictions-base.json",
        "predictions-adapter.json",
        "predictions-base.jsonl",
        "predictions-adapter.jsonl",
        "report.html",
        "scores.json",
        "checkpoints",
    }
    assert outcome.folder == folder
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["checkpoint-3", "checkpoint-6"]
    modes = {file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}
    assert len(modes) == 1, "as the umask says, for all files"


def test_card_names_base_recipe_and_scores(finished: tuple[Path, RunResult, str], base_folder: Path) -> None:
    card = (finished[0] / "README.md").read_text()
    assert f"Adapter for `{base_folder}`" in card
    assert "base_model:" not in card, "the Hub refuses a card whose base is none of its own"
    assert "lora-mm merge whole --output merged-image --modality image" in card
    assert "six steps on a tiny base" in card
    assert "frozen base" in card
    for figure in (", 12 problems", "trained on 24 problems", "6 steps"):
        assert figure in card


def test_recipe_saved_with_it_is_the_one_that_ran(finished: tuple[Path, RunResult, str], recipe_file: Path) -> None:
    assert load_recipe(str(finished[0] / "recipe.yaml")) == load_recipe(str(recipe_file))


def test_scores_are_those_of_the_predictions_it_saved(finished: tuple[Path, RunResult, str], recipe_file: Path) -> None:
    folder, outcome, _ = finished
    assert list(outcome.scores) == ["random choice", "frozen base", "adapter"]
    problems = load_split(load_recipe(str(recipe_file)), "test").problems
    assert problems is not None
    facts = load_scores(folder)
    for name, file in (("frozen base", "predictions-base.json"), ("adapter", "predictions-adapter.json")):
        answers = read_results(folder / file).predictions
        right = sum(answers[problem.id] == problem.answer for problem in problems)
        told = json.dumps(facts["scores"][name])
        assert f"{100 * right / 12:.2f}".rstrip("0").rstrip(".") in told
    assert facts["figures"]["steps"] == 6
    assert facts["figures"]["train_rows"] == 24
    assert facts["figures"]["test_rows"] == 12
    assert facts["figures"]["adapter_bytes"] == (folder / WEIGHTS).stat().st_size
    history = facts["figures"]["history"]
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "learning_rate", "grad_norm", "epoch"} <= set(entry) for entry in history)
    assert all(entry["samples_per_second"] > 0 and entry["memory_bytes"] > 2**20 for entry in history)


def test_trains_every_tensor_it_saves(finished: tuple[Path, RunResult, str], tmp_path: Path, recipe_file: Path) -> None:
    start = tmp_path / "start"
    recipe = load_recipe(
        str(recipe_file), ["training.learning_rate=1e-30", "training.max_steps=1", "evaluation.base=false"]
    )
    finetune(recipe, start, console())
    before, after = load_file(start / WEIGHTS), load_file(finished[0] / WEIGHTS)
    assert set(before) == set(after)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_prints_rows_parts_and_scores(finished: tuple[Path, RunResult, str]) -> None:
    _, outcome, text = finished
    for part in ("vision", "connector", "language", "head", "all"):
        assert f"\n{part} " in text
    assert f"{outcome.figures['trained_parameters']:,}" in text
    assert "training: 6/6 steps, loss " in text
    assert "frozen base" in text
    assert "tokens per example: median" in text


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    expected = (finished[0] / WEIGHTS).read_bytes()
    finetune(load_recipe(str(recipe_file), ["evaluation.base=false"]), tmp_path / "again", console())
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == expected
    finetune(load_recipe(str(recipe_file), ["training.seed=1", "evaluation.base=false"]), tmp_path / "other", console())
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != expected


def test_evaluate_gives_the_answers_of_the_run(finished: tuple[Path, RunResult, str]) -> None:
    folder, outcome, _ = finished
    for base_only, name, file in ((False, "adapter", "adapter"), (True, "frozen base", "base")):
        found = asked(folder, base_only=base_only)
        assert found.scores[name] == outcome.scores[name]
        assert found.scored[name].predictions == read_results(folder / f"predictions-{file}.json").predictions
        assert list(found.scored[name].answers) == load_answers(folder / f"predictions-{file}.jsonl")


def test_runs_with_the_settings_of_the_real_recipe(base_folder: Path, scienceqa_folder: Path, tmp_path: Path) -> None:
    """NF4, bf16, checkpointing, accumulation, grouping by length, lectures, cut answers, written answers."""
    pytest.importorskip("bitsandbytes")
    file = make_recipe(
        tmp_path / "tiny.yaml",
        base_folder,
        scienceqa_folder,
        base={"dtype": "bfloat16", "quantization": "nf4"},
        data={"format": "QCM-ALE", "max_length": 100, "overlong": "truncate"},
        training={
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "gradient_checkpointing": True,
            "train_sampling_strategy": "group_by_length",
        },
        evaluation={"answer": "generate", "max_new_tokens": 4},
    )
    recipe = load_recipe(str(file))
    outcome = finetune(recipe, tmp_path / "run", console())
    assert outcome is not None
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / WEIGHTS).values()} == {torch.float32}
    found = asked(tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "predictions-adapter.json").read_text())
    assert found.scored["adapter"].outputs == saved["outputs"]
    assert found.scores["adapter"] == outcome.scores["adapter"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_saved_in_16_bits_it_is_scored_as_it_is_saved(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path, dtype: str
) -> None:
    recipe = load_recipe(str(recipe_file), [f"save_dtype={dtype}", "evaluation.base=false"])
    outcome = finetune(recipe, tmp_path / "run", console())
    assert outcome is not None
    saved, exact = load_file(tmp_path / "run" / WEIGHTS), load_file(finished[0] / WEIGHTS)
    assert {tensor.dtype for tensor in saved.values()} == {getattr(torch, dtype)}
    assert all(torch.equal(saved[name], tensor.to(saved[name].dtype)) for name, tensor in exact.items())
    found = asked(tmp_path / "run")
    assert found.scores["adapter"] == outcome.scores["adapter"]
    assert (
        found.scored["adapter"].predictions == read_results(tmp_path / "run" / "predictions-adapter.json").predictions
    )


def test_from_python_a_recipe_file_runs_with_overrides_into_the_folder_of_its_name(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = finetune(recipe_file, console=console(), overrides=["training.max_steps=1", "evaluation.base=false"])
    assert result is not None
    assert result.folder == Path("runs") / "tiny"
    assert result.figures["steps"] == 1
    assert (tmp_path / "runs" / "tiny" / WEIGHTS).is_file()
    found = evaluate(result.folder, overrides=["data.eval_limit=3"], compare="base", console=console())
    assert list(found.scored) == ["adapter", "frozen base"]
    assert len(found.examples) == 3
    with pytest.raises(ValueError, match="overrides apply to a recipe given by name or file"):
        finetune(load_recipe(str(recipe_file)), overrides=["training.seed=1"])


def test_pictures_are_scored_as_they_were_trained_on(recipe_file: Path, tmp_path: Path) -> None:
    settings = ["training.max_steps=3", "training.learning_rate=0.03", "evaluation.base=false", "data.pictures.fit=pad"]
    outcome = finetune(recipe_file, tmp_path / "run", console=console(), overrides=settings)
    assert outcome is not None
    assert json.loads((tmp_path / "run" / "preprocessing.json").read_text())["inputs"]["pictures_fit"] == "pad"
    assert "pictures were padded to a square" in (tmp_path / "run" / "README.md").read_text()
    assert asked(tmp_path / "run").scores["adapter"] == outcome.scores["adapter"]
    other = ["data.pictures.fit=crop"]
    with pytest.raises(InputError, match='pictures_fit: trained with "pad", now "crop"'):
        asked(tmp_path / "run", overrides=other)
    with pytest.raises(InputError, match='pictures_fit: trained with "pad", now "crop"'):
        load_adapted([str(tmp_path / "run")], other)
    with pytest.warns(UserWarning, match="Accepted"):
        cropped = asked(tmp_path / "run", overrides=other, accept=["inputs"])
    assert cropped.scored["adapter"].answers != load_answers(tmp_path / "run" / "predictions-adapter.jsonl")


# --- methods by crop and by token ------------------------------------------------------------------------------------

MIXED = [
    {"method": "mma", "rank": 4},
    {"method": "crop_lora", "at": "block", "rank": 2, "dropout": 0},
    {"method": "moe_lora", "rank": 2, "layers": [1]},
]


def test_crops_and_experts_in_one_run(base_folder: Path, scienceqa_folder: Path, tmp_path: Path) -> None:
    data = {"path": str(scienceqa_folder), "slicing": {"rows": 2, "columns": 2}}
    training = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    file = make_recipe(
        tmp_path / "mixed.yaml", base_folder, scienceqa_folder, adapters=MIXED, data=data, training=training
    )
    recipe = load_recipe(str(file))
    outcome = finetune(recipe, tmp_path / "run", console())
    assert outcome is not None
    logged = json.loads(next((tmp_path / "run").glob("checkpoints/checkpoint-6/trainer_state.json")).read_text())
    entries = [entry for entry in logged["log_history"] if "loss" in entry]
    assert len(entries) == 6
    for entry in entries:
        assert 0 <= entry["expert_share_min"] <= 0.25 <= entry["expert_share_max"] <= 0.5
        assert 0.9 < entry["expert_balance"] < 4
    weights = load_file(tmp_path / "run" / WEIGHTS)
    assert all(value.any() for name, value in weights.items() if "routed_up.weight" in name), "every expert moved"
    again = asked(tmp_path / "run")
    assert (
        again.scored["adapter"].predictions == read_results(tmp_path / "run" / "predictions-adapter.json").predictions
    )


def test_a_lora_for_each_crop_of_pictures_left_whole_is_refused(
    base_folder: Path, scienceqa_folder: Path, tmp_path: Path
) -> None:
    file = make_recipe(tmp_path / "whole.yaml", base_folder, scienceqa_folder, adapters=MIXED)
    with pytest.raises(InputError, match=r"adapters.1: 'llava' bases do not slice pictures.*set data.slicing"):
        finetune(load_recipe(str(file)), tmp_path / "run", console())
    assert not (tmp_path / "run").exists()


def test_an_expert_count_other_than_the_grids_is_refused(
    base_folder: Path, scienceqa_folder: Path, tmp_path: Path
) -> None:
    data = {"path": str(scienceqa_folder), "slicing": {"rows": 2, "columns": 3}}
    file = make_recipe(tmp_path / "grid.yaml", base_folder, scienceqa_folder, adapters=MIXED, data=data)
    with pytest.raises(InputError, match=r"adapters.1.experts: data.slicing cuts a picture into 6 crops; use 6"):
        load_recipe(str(file))
