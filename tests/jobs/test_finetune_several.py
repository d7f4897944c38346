"""Whole runs by two processes: they train what one does, and only the first is heard of."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.run_folder import load_scores
from lora_mm.recipe.load import load_recipe
from tests.helpers.launch import LAUNCH_TWO, launch_two
from tests.helpers.runs import stopped_at
from tests.helpers.tiny import make_recipe

pytestmark = pytest.mark.distributed

WEIGHTS = "adapter_model.safetensors"
HALF = "training.per_device_train_batch_size=2"


def flags(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine steps of four problems, with and without pictures; the checkpoint is in the second pass over them."""
    plain = {"rank": 4, "temperature": 1, "dropout": 0}
    return make_recipe(
        tmp_path_factory.mktemp("recipe") / "tiny.yaml",
        base_folder,
        scienceqa_folder,
        adapters=[{"method": "mma", **plain}, {"method": "mma", "part": "vision", **plain}],
        training={"max_steps": 9, "save_steps": 7},
    )


@pytest.fixture(scope="module")
def together(
    recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a run of two processes with two problems each, and what they printed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    done = launch_two("-m", "lora_mm", "finetune", "--recipe", recipe_file, "--output", folder, *flags(HALF))
    assert done.returncode == 0, done.stderr
    return folder, done


def assert_trained_alike(two: Path, one: Path) -> None:
    """Within the rounding that Adam makes of gradients near zero, as those of routers: a 200th of how far they went."""
    weights, expected = load_file(two / WEIGHTS), load_file(one / WEIGHTS)
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-3, msg=lambda text, name=name: name + text)


def test_two_processes_train_what_one_does_with_batches_twice_as_large(
    together: tuple[Path, subprocess.CompletedProcess[str]], recipe_file: Path, tmp_path: Path
) -> None:
    folder, _ = together
    alone = finetune(load_recipe(str(recipe_file)), tmp_path / "one", Console(file=io.StringIO()))
    assert alone is not None
    assert_trained_alike(folder, tmp_path / "one")
    figures = load_scores(folder)["figures"]
    for mine, other in zip(figures["history"], alone.figures["history"], strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def test_only_the_first_process_prints(together: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = together
    assert done.stderr == ""
    for once in ("train: 24 of 24 rows used", "What trains", "training: 9/9 steps", "scoring adapter:", "9 steps in"):
        assert done.stdout.count(once) == 1, once


def test_two_processes_go_on_where_two_stopped_and_one_cannot(
    together: tuple[Path, subprocess.CompletedProcess[str]], recipe_file: Path, tmp_path: Path
) -> None:
    """By the installed command, with ``--json``: one object from the first process, and nothing else."""
    whole, _ = together
    folder = stopped_at(7, whole, tmp_path / "stopped")
    with pytest.raises(Exception, match="needs 2 processes, but this run has 1"):
        finetune(load_recipe(str(recipe_file), [HALF]), folder, Console(quiet=True), resume=True)
    command = ["--no-python", Path(sys.executable).parent / "lora-mm", "finetune", "--recipe", recipe_file]
    done = launch_two(*command, "--output", folder, *flags(HALF), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["steps"] == 9
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_process_whose_batch_reaches_nothing_that_trains_waits_for_nobody(recipe_file: Path, tmp_path: Path) -> None:
    """The connector alone trains, and one process has the problems with pictures, the other those without."""
    settings = ["adapters=[]", "training.train_sampling_strategy=sequential", "evaluation.base=false"]
    one, apart = ["training.per_device_train_batch_size=2"], ["training.per_device_train_batch_size=1"]
    finetune(load_recipe(str(recipe_file), [*settings, *one]), tmp_path / "one", Console(quiet=True))
    done = launch_two(
        "-m", "lora_mm", "finetune", "--recipe", recipe_file, "--output", tmp_path / "two", *flags(*settings, *apart)
    )
    assert done.returncode == 0, done.stderr
    assert_trained_alike(tmp_path / "two", tmp_path / "one")


def test_what_is_wrong_is_said_once_and_ends_both(recipe_file: Path, tmp_path: Path) -> None:
    done = launch_two(
        "-m", "lora_mm", "finetune", "--recipe", recipe_file, "--output", tmp_path, *flags("training.sed=1")
    )
    assert (done.returncode, done.stdout) == (1, ""), "1 is the launcher's, whatever ended its processes"
    assert done.stderr.count("training.sed: unknown key. Did you mean 'seed'?") == 1
    assert "exitcode  : 2" in done.stderr.split("Root Cause")[1]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send there")
def test_ctrl_c_saves_once_and_is_told_once(recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = flags("training.max_steps=4000", "training.save_steps=2", "evaluation.base=false", HALF)
    command = [
        *LAUNCH_TWO,
        "-m",
        "lora_mm",
        "finetune",
        "--recipe",
        str(recipe_file),
        "--output",
        str(folder),
        *settings,
    ]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("checkpoints/checkpoint-*")) and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        run.send_signal(signal.SIGINT)  # the launcher passes it on
        _, err = run.communicate(timeout=120)
    finally:
        run.kill()
    (told,) = [line for line in err.splitlines() if "with --resume to continue" in line]
    step = int(told.split("Stopped at step ")[1].split()[0])
    newest = folder / "checkpoints" / f"checkpoint-{step}"
    assert {"trainer_state.json", "rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in newest.iterdir()}
    assert not (folder / WEIGHTS).exists()


def test_other_verbs_are_done_by_the_first_process_alone(recipe_file: Path) -> None:
    done = launch_two("-m", "lora_mm", "recipes", "check", recipe_file)
    assert (done.returncode, done.stdout.count("valid")) == (0, 1), done.stdout + done.stderr
