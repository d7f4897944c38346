"""Whole runs on a tiny base: what they leave behind, what they refuse, and that they go on where they stopped."""

import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from lora_mm.data.splits import load_split
from lora_mm.errors import InputError, LoraMMError
from lora_mm.evaluation.answers import load_answers
from lora_mm.evaluation.scienceqa import read_results
from lora_mm.jobs.evaluate import Evaluation, evaluate
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.inference import load_adapted
from lora_mm.jobs.run_folder import RunResult, load_scores
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from tests.helpers.tiny import make_recipe

WEIGHTS = "adapter_model.safetensors"


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def printed(output: Console) -> str:
    assert isinstance(output.file, io.StringIO)
    return output.file.getvalue()


@pytest.fixture(scope="module")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, a checkpoint after the third; MMA with dropout in both parts, and the connector whole."""
    return make_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", base_folder, scienceqa_folder)


@pytest.fixture(scope="module")
def finished(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult, str]:
    """The folder of an uninterrupted run, what it returned and what it printed."""
    folder, out = tmp_path_factory.mktemp("runs") / "whole", console()
    outcome = finetune(load_recipe(str(recipe_file)), folder, out)
    assert outcome is not None
    return folder, outcome, printed(out)


def asked(folder: Path, **how: Any) -> Evaluation:
    """The adapter in ``folder`` evaluated on its recipe's own questions."""
    return evaluate(folder, console=console(), **how)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- what is left behind -------------------------------------------------------------------------------------------


def test_leaves_an_adapter_folder_that_is_whole(finished: tuple[Path, RunResult, str]) -> None:
    folder, outcome, _ = finished
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        WEIGHTS,
        "README.md",
        "recipe.yaml",
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


# --- continuing ----------------------------------------------------------------------------------------------------


def stopped_at(checkpoint: int, finished: Path, folder: Path) -> Path:
    """A copy of a finished run as it was after ``checkpoint``."""
    shutil.copytree(finished, folder)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.rpartition("-")[2]) > checkpoint:
            shutil.rmtree(path)
    for name in (WEIGHTS, "adapter_config.json", "scores.json", "README.md", "predictions-adapter.json"):
        (folder / name).unlink()
    return folder


def test_resumed_it_ends_bit_equal(finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path) -> None:
    whole, outcome, _ = finished
    folder = stopped_at(3, whole, tmp_path / "stopped")
    out = console()
    resumed = finetune(load_recipe(str(recipe_file)), folder, out, resume=True)
    assert "training: 3/3 steps" in printed(out)
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert resumed is not None
    losses = [[entry["loss"] for entry in run.figures["history"]] for run in (resumed, outcome)]
    assert losses[0] == losses[1]
    assert resumed.scores == outcome.scores
    assert (folder / "predictions-adapter.json").read_bytes() == (whole / "predictions-adapter.json").read_bytes()


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_resumed_in_a_later_pass_over_the_data_it_ends_bit_equal(
    recipe_file: Path, tmp_path: Path, strategy: str
) -> None:
    """Twelve problems in batches of two: the checkpoint is in the second of three passes, each in its own order."""
    settings = ["data.train_limit=12", "data.eval_limit=2", "evaluation.base=false", "training.max_steps=15"]
    settings += ["training.per_device_train_batch_size=2", "training.save_steps=8", "adapters.0.dropout=0.2"]
    recipe = load_recipe(str(recipe_file), [*settings, f"training.train_sampling_strategy={strategy}"])
    finetune(recipe, tmp_path / "whole", console())
    folder = stopped_at(8, tmp_path / "whole", tmp_path / "stopped")
    finetune(recipe, folder, console(), resume=True)
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_a_finished_run_resumed_only_scores_again(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    whole, outcome, _ = finished
    folder = shutil.copytree(whole, tmp_path / "whole")
    again = finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert again is not None
    assert again.scores == outcome.scores
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_run_that_ended_within_an_epoch_takes_no_step_more(recipe_file: Path, tmp_path: Path) -> None:
    recipe, folder = (
        load_recipe(str(recipe_file), ["training.max_steps=4", "training.save_steps=500"]),
        tmp_path / "run",
    )
    first = finetune(recipe, folder, console())
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()  # as if stopped between training and saving
    again = finetune(recipe, folder, console(), resume=True)
    assert first is not None
    assert again is not None
    assert again.figures["steps"] == 4
    assert again.scores == first.scores
    assert (folder / WEIGHTS).read_bytes() == weights


def test_a_checkpoint_cut_off_in_writing_is_passed_over(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    (folder / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert (folder / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send there")
def test_ctrl_c_saves_and_exits_130_and_resume_finishes(recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ["training.max_steps=20", "training.save_steps=1", "evaluation.base=false"]
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "lora_mm", "finetune", "--recipe", str(recipe_file), "--output", str(folder)]
    run = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/checkpoint-*")) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 130, err[-2000:]
    assert "Traceback" not in out + err
    assert "with --resume to continue" in err
    assert not (folder / WEIGHTS).exists()
    step = int(err.split("Stopped at step ")[1].split()[0])
    assert step < 20
    assert (folder / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").is_file()
    outcome = finetune(load_recipe(str(recipe_file), settings), folder, console(), resume=True)
    assert outcome is not None
    assert outcome.figures["steps"] == 20
    assert (folder / WEIGHTS).is_file()


# --- what is refused, with nothing lost ------------------------------------------------------------------------------


def refused(recipe: Recipe, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        finetune(recipe, folder, console(), **options)
    return str(error.value)


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(
    finished: tuple[Path, RunResult, str], recipe_file: Path
) -> None:
    before = contents(finished[0])
    message = refused(load_recipe(str(recipe_file)), finished[0])
    assert "--resume" in message
    assert "--overwrite" in message
    assert contents(finished[0]) == before


def test_overwrite_throws_the_old_run_away(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    recipe = load_recipe(str(recipe_file), ["training.max_steps=1", "evaluation.base=false"])
    finetune(recipe, folder, console(), overwrite=True)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-1"]
    assert not (folder / "predictions-base.json").exists()


def test_what_is_wrong_is_found_before_overwrite_throws_anything_away(
    finished: tuple[Path, RunResult, str], recipe_file: Path
) -> None:
    before = contents(finished[0])
    for setting in ("data.path=/nowhere", "base.model=/nowhere", "data.max_length=8", "data.eval_split=train"):
        refused(load_recipe(str(recipe_file), [setting]), finished[0], overwrite=True)
    assert contents(finished[0]) == before


def test_a_dry_run_writes_nothing(recipe_file: Path, tmp_path: Path) -> None:
    out = console()
    assert finetune(load_recipe(str(recipe_file)), tmp_path / "run", out, dry_run=True) is None
    assert list(tmp_path.iterdir()) == []
    assert "Nothing was written" in printed(out)
    assert "connector" in printed(out)


def test_a_dry_run_with_overwrite_throws_nothing_away(finished: tuple[Path, RunResult, str], recipe_file: Path) -> None:
    before = contents(finished[0])
    finetune(load_recipe(str(recipe_file)), finished[0], console(), dry_run=True, overwrite=True)
    assert contents(finished[0]) == before


def test_resume_without_a_checkpoint_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    assert "no checkpoint" in refused(load_recipe(str(recipe_file)), tmp_path / "run", resume=True)


def test_resume_of_another_recipe_is_refused(finished: tuple[Path, RunResult, str], recipe_file: Path) -> None:
    before = contents(finished[0])
    changed = load_recipe(str(recipe_file), ["training.learning_rate=1"])
    assert "the recipe differs from" in refused(changed, finished[0], resume=True)
    assert contents(finished[0]) == before


def test_resume_and_overwrite_together_are_refused(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    """They contradict each other, and what would be resumed would be gone."""
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    message = refused(load_recipe(str(recipe_file)), folder, resume=True, overwrite=True)
    assert "--resume" in message
    assert "--overwrite" in message
    assert contents(folder) == contents(finished[0])


def test_problems_in_both_splits_are_refused(recipe_file: Path, tmp_path: Path) -> None:
    message = refused(load_recipe(str(recipe_file), ["data.eval_split=train"]), tmp_path / "run")
    assert "24 examples are in both data.train_split=train and data.eval_split=train" in message
    assert not (tmp_path / "run").exists()


def test_nothing_left_to_train_on_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_file), ["data.max_length=8", "data.overlong=drop"])
    assert "No example of 'train' is left to train on" in refused(recipe, tmp_path / "run")


def test_an_output_that_is_a_file_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert "is a file, not a folder" in refused(load_recipe(str(recipe_file)), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_output_that_cannot_be_written_fails_with_exit_code_1(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LoraMMError, match="cannot be written") as error:
        finetune(load_recipe(str(recipe_file)), tmp_path / "file" / "run", console())
    assert error.value.exit_code == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow above ``size`` bytes: what a full disk does, at a place of our choice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [600, 2000, 12_000])
def test_a_disk_that_fills_up_fails_with_exit_code_1(recipe_file: Path, tmp_path: Path, size: int) -> None:
    """At the first small file, in the middle of the recipe or the predictions, and in the first checkpoint."""
    recipe = load_recipe(str(recipe_file))
    with pytest.raises(LoraMMError, match="cannot be written") as error, largest_file(size):
        finetune(recipe, tmp_path / "run", console())
    assert error.value.exit_code == 1
    assert str(tmp_path / "run") in str(error.value)
    assert not list((tmp_path / "run").glob("checkpoints/*")), "half a checkpoint is worse than none"


def test_a_disk_that_fills_up_at_the_second_checkpoint_leaves_the_first(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder = stopped_at(3, finished[0], tmp_path / "stopped")
    with pytest.raises(LoraMMError, match="checkpoint-6: the checkpoint cannot be written"), largest_file(12_000):
        finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-3"]
    finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert (folder / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()


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
