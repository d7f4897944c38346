"""The folder of a run: what is refused with nothing lost, what is deleted, and full disks."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lora_mm.errors import InputError, LoraMMError
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.run_folder import RunResult, lock_run_folder
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from tests.helpers.runs import console, contents, printed, stopped_at

WEIGHTS = "adapter_model.safetensors"


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


def test_overwrite_deletes_nothing_but_what_a_run_wrote(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    (folder / "thesis.tex").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(b"mine")
    shutil.rmtree(folder / "checkpoints")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.json").write_text("mine")
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    recipe = load_recipe(str(recipe_file), ["training.max_steps=1", "evaluation.base=false"])
    finetune(recipe, folder, console(), overwrite=True)
    assert (folder / "thesis.tex").read_text() == "mine"
    assert (folder / "figures" / "one.png").read_bytes() == b"mine"
    assert (tmp_path / "elsewhere" / "data.json").read_text() == "mine"


def test_overwrite_of_a_folder_that_no_run_made_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    """It has a recipe of the user's own, as the folder of a project has."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(recipe_file, project / "recipe.yaml")
    (project / "thesis.tex").write_text("mine")
    before = contents(project)
    for options in ({"overwrite": True}, {"resume": True}):
        assert "is not the folder of a run" in refused(load_recipe(str(recipe_file)), project, **options)
    assert "Name another folder with --output" in refused(load_recipe(str(recipe_file)), project)
    assert contents(project) == before


def test_overwrite_of_what_the_new_run_needs_is_refused(
    finished: tuple[Path, RunResult, str], recipe_file: Path, scienceqa_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    shutil.copytree(scienceqa_folder, folder / "data")
    before = contents(folder)
    inside = load_recipe(str(recipe_file), [f"data.path={folder / 'data'}"])
    assert f"needs {folder / 'data'}" in refused(inside, folder, overwrite=True)
    with pytest.raises(InputError, match=r"needs .*recipe.yaml"):
        finetune(folder / "recipe.yaml", folder, console(), overwrite=True)
    assert contents(folder) == before


def test_a_second_run_at_the_same_time_is_refused(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    with lock_run_folder(folder):
        before = contents(folder)
        for options in ({}, {"resume": True}, {"overwrite": True}):
            assert "another run is writing" in refused(load_recipe(str(recipe_file)), folder, **options)
        assert contents(folder) == before
    with lock_run_folder(tmp_path / "new"):
        assert "another run is writing" in refused(load_recipe(str(recipe_file)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    lock = str(tmp_path / ".lock")
    hold = f"import filelock, time; lock = filelock.FileLock({lock!r}); lock.acquire(); print('held'); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-uc", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another run is writing"), lock_run_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        with lock_run_folder(tmp_path):
            pass


def test_a_failed_run_leaves_no_empty_folder(recipe_file: Path, tmp_path: Path) -> None:
    refused(load_recipe(str(recipe_file), ["data.path=/nowhere"]), tmp_path / "runs" / "new")
    assert not (tmp_path / "runs" / "new").exists()


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


def test_resume_of_another_recipe_is_refused(finished: tuple[Path, RunResult, str], recipe_file: Path) -> None:
    before = contents(finished[0])
    changed = load_recipe(str(recipe_file), ["training.learning_rate=1"])
    message = refused(changed, finished[0], resume=True)
    assert "the recipe differs from" in message
    assert f"continue with `--recipe {finished[0] / 'recipe.yaml'} --resume`" in message
    assert contents(finished[0]) == before


def test_a_damaged_recipe_is_no_way_out(
    finished: tuple[Path, RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    """It says another learning rate, or is half a recipe. The right one continues the run and restores it."""
    folder = shutil.copytree(finished[0], tmp_path / "whole")
    text = (folder / "recipe.yaml").read_text()
    for damaged in (text.replace("learning_rate: ", "learning_rate: 0.5 #"), text[: len(text) // 2], ""):
        (folder / "recipe.yaml").write_text(damaged)
        message = refused(load_recipe(str(recipe_file), ["training.learning_rate=1"]), folder, resume=True)
        assert "start a new run with another --output" in message
        assert "continue with" not in message
    finetune(load_recipe(str(recipe_file)), folder, console(), resume=True)
    assert (folder / "recipe.yaml").read_text() == text


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
