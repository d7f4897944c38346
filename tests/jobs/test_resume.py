"""Runs that go on where they stopped: after Ctrl-C, after a kill, and from damaged checkpoints."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_mm.errors import InputError
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.run_folder import RunResult, choose_checkpoint
from lora_mm.recipe.load import load_recipe
from tests.helpers.runs import console, contents, printed, stopped_at
from tests.helpers.tiny import make_recipe

WEIGHTS = "adapter_model.safetensors"


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
    leftovers = [folder / "checkpoints" / ".unfinished", folder / f".lora-mm-{'0' * 16}"]
    for leftover in leftovers:
        leftover.mkdir()
    again = finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert again is not None
    assert again.scores == outcome.scores
    assert not any(leftover.exists() for leftover in leftovers)
    assert 0.5 * outcome.figures["train_seconds"] < again.figures["train_seconds"]
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_run_that_ended_within_an_epoch_takes_no_step_more(recipe_file: Path, tmp_path: Path) -> None:
    settings = ["training.max_steps=4", "training.save_steps=500", "training.logging_steps=100"]  # so it has no logs
    recipe, folder = load_recipe(str(recipe_file), settings), tmp_path / "run"
    first = finetune(recipe, folder, console())
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()  # as if stopped between training and saving
    again = finetune(recipe, folder, console(), resume=True)
    assert first is not None
    assert again is not None
    assert again.figures["steps"] == 4
    assert again.figures["samples_per_second"] > 0
    assert again.scores == first.scores
    assert (folder / WEIGHTS).read_bytes() == weights


CHECKPOINT_FILES = [
    "adapter_config.json",
    WEIGHTS,
    "manifest.json",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
]


def damage(file: Path, how: str) -> None:
    """Delete a file, cut it off, or change one byte of it."""
    content = file.read_bytes()
    if how == "deleted":
        file.unlink()
    else:
        middle = len(content) // 2
        rest = bytes([content[middle] ^ 1]) + content[middle + 1 :] if how == "changed" else b""
        file.write_bytes(content[:middle] + rest)


@pytest.mark.parametrize("how", ["deleted", "cut off", "changed"])
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_damaged_checkpoint_is_told_and_passed_over(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path, name: str, how: str
) -> None:
    folder, recipe = shutil.copytree(finished[0], tmp_path / "whole"), load_recipe(str(recipe_file))
    assert choose_checkpoint(folder, recipe) == (folder / "checkpoints" / "checkpoint-6", [])
    damage(folder / "checkpoints" / "checkpoint-6" / name, how)
    checkpoint, faults = choose_checkpoint(folder, recipe)
    assert checkpoint == folder / "checkpoints" / "checkpoint-3"
    assert len(faults) == 1
    assert "checkpoint-6" in faults[0]
    assert name in faults[0] or name == "manifest.json"


@pytest.mark.parametrize("text", ["[]", "{}", '{"facts": {}, "seconds": 0, "files": []}', '{"facts": 1}', "nonsense"])
def test_a_manifest_of_another_form_is_told(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path, text: str
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    (folder / "checkpoints" / "checkpoint-6" / "manifest.json").write_text(text)
    checkpoint, [fault] = choose_checkpoint(folder, load_recipe(str(recipe_file)))
    assert checkpoint == folder / "checkpoints" / "checkpoint-3"
    assert "checkpoint-6: cannot be read" in fault


def test_from_the_checkpoint_before_a_damaged_one_it_ends_bit_equal(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder, out = shutil.copytree(finished[0], tmp_path / "whole"), console()
    damage(folder / "checkpoints" / "checkpoint-6" / "optimizer.pt", "cut off")
    (folder / "checkpoints" / ".unfinished").mkdir()  # as a killed process leaves it
    (folder / "checkpoints" / ".unfinished" / "half").write_text("half")
    finetune(load_recipe(str(recipe_file)), folder, out, resume=True)
    assert "Not used:" in printed(out)
    assert "training: 3/3 steps" in printed(out)
    assert (folder / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["checkpoint-3", "checkpoint-6"]
    assert choose_checkpoint(folder, load_recipe(str(recipe_file)))[1] == []


def test_no_whole_checkpoint_is_refused(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    for step in (3, 6):
        damage(folder / "checkpoints" / f"checkpoint-{step}" / WEIGHTS, "changed")
    before = contents(folder)
    with pytest.raises(InputError, match=f"checkpoint-3: damaged or changed: {WEIGHTS}") as error:
        finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert "checkpoint-6" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert contents(folder) == before


def test_a_checkpoint_of_another_run_is_not_used(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    other = load_recipe(str(recipe_file), ["training.seed=5"])
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    with pytest.raises(InputError, match="checkpoint-6: belongs to a run of another recipe"):
        choose_checkpoint(folder, other)


def test_other_examples_than_before_are_refused(
    finished: tuple[Path, RunResult, str], base_folder: Path, scienceqa_folder: Path, tmp_path: Path
) -> None:
    """The recipe is the same, and its data set was edited."""
    data = shutil.copytree(scienceqa_folder, tmp_path / "data")
    file = make_recipe(tmp_path / "tiny.yaml", base_folder, data)
    recipe = load_recipe(str(file), ["training.max_steps=3", "evaluation.base=false"])
    finetune(recipe, tmp_path / "run", console())
    problems = json.loads((data / "problems.json").read_text())
    for problem in problems.values():
        problem["question"] += " Why?"
    (data / "problems.json").write_text(json.dumps(problems))
    with pytest.raises(InputError, match="the data has changed since"):
        finetune(recipe, tmp_path / "run", console(), resume=True)


def test_a_run_stopped_before_its_first_checkpoint_begins_with_resume(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    """And so does one that never began, so that a script of a scheduler can always say --resume."""
    folder = shutil.copytree(finished[0], tmp_path / "stopped")
    for path in folder.iterdir():
        if path.name not in ("run.json", "recipe.yaml", "predictions-base.jsonl", "predictions-base.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="Continue its run with --resume"):
        finetune(load_recipe(str(recipe_file)), folder, console())
    out = console()
    finetune(load_recipe(str(recipe_file)), folder, out, resume=True)
    assert "scoring frozen base" not in printed(out), "its answers are there"
    assert (folder / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()


def test_resume_begins_a_run_in_a_new_folder(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_file), ["training.max_steps=1", "evaluation.base=false"])
    assert finetune(recipe, tmp_path / "run", console(), resume=True) is not None
    assert (tmp_path / "run" / WEIGHTS).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_signal_saves_and_resume_finishes(recipe_file: Path, tmp_path: Path, number: int, code: int) -> None:
    """The workers get it too, as when a terminal or a scheduler stops a job."""
    folder = tmp_path / "run"
    settings = ["training.max_steps=20", "training.save_steps=1", "evaluation.base=false"]
    settings.append("training.dataloader_num_workers=2")
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "lora_mm", "finetune", "--recipe", str(recipe_file), "--output", str(folder)]
    run = subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/checkpoint-*")) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(run.pid, number)
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == code, err[-2000:]
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
