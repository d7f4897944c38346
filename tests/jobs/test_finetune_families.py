"""Whole runs of the command line on every family: fine-tune, score, and score again in a process of its own."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from lora_mm.adapters.support import find_obstacle
from lora_mm.artifact.files import WEIGHTS
from lora_mm.cli.main import app
from lora_mm.evaluation.scienceqa import read_results
from lora_mm.models.families import FAMILIES
from lora_mm.pocket.world import make_world
from tests.helpers.bases import PROCESSORS, make_family_base
from tests.helpers.family_inputs import SIZE
from tests.helpers.newer_families import NEWER_FAMILY

NEWER = ("qwen3_5", "qwen3_vl_moe", "gemma4", "lighton_ocr", "aya_vision")
"""Of the newer families, those that run here: of each kind one. ``benchmarks/families.py`` runs them all."""

RUN = [name for name in PROCESSORS if name not in NEWER_FAMILY or name in NEWER]
every_family = pytest.mark.parametrize("family", RUN)
RESULTS = "predictions-adapter.json"
GRID = 4
"""Crops of a picture, by the slicer or by the family itself; fewer where its tiny processor makes no more."""
BY_TOKEN = 3
EXPERTS = {"llava_next": 1, "llava_onevision": 1}
"""Their tiny processors make one tile of a square picture, and the pocket world's are square."""


def covered(family: str) -> set[str]:
    """What a test here bears out (see benchmarks/families.py)."""
    return {"run"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket problems, with pictures and without."""
    folder = tmp_path_factory.mktemp("pocket") / "world"
    make_world(folder, size=200)
    return folder


def settings(family: str, base: Path, world: Path) -> list[str]:
    """``--set`` of a run in bf16: adapters in the language model and, where they apply, in the tower; the connector."""
    row = FAMILIES[family]
    wanted = ({"method": "mma", "rank": 4}, {"method": "moe_lora", "experts": BY_TOKEN, "rank": 2, "layers": [1]})
    adapters: list[dict[str, Any]] = [
        item for item in wanted if find_obstacle(str(item["method"]), row, "language") is None
    ]
    more: dict[str, Any] = {}
    if find_obstacle("crop_lora", row) is None:
        adapters.append(
            {"method": "crop_lora", "at": "block", "rank": 2, "experts": EXPERTS.get(family, GRID), "dropout": 0}
        )
        if row.crops == "none":
            more["data.slicing"] = {"rows": 2, "columns": 2, "window": SIZE}
    elif row.tower and family != "ovis2":  # a tiny Ovis 2 is certain of its visual words: no gradient passes
        adapters.append({"method": "mma", "part": "vision", "rank": 4})
    chosen = {
        "base.model": str(base),
        "base.dtype": "bfloat16",
        "data.path": str(world),
        "adapters": adapters,
        "train": ["connector"],
        "data.max_length": 4000,
        "data.train_limit": 12,
        "data.eval_limit": 6,
        "training.max_steps": 3,
        "training.per_device_train_batch_size": 4,
        "training.gradient_checkpointing": True,
        "training.learning_rate": 5e-3,
        "training.logging_steps": 1,
        **more,
    }
    return [part for key, value in chosen.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def run_of(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A finished run of a family: its adapter folder, and what the command printed with ``--json``."""
    folder, done = tmp_path_factory.mktemp("runs"), dict[str, tuple[Path, dict[str, Any]]]()

    def make(family: str) -> tuple[Path, dict[str, Any]]:
        if family not in done:
            base = make_family_base(folder / f"{family}-base", family)
            output = folder / family
            flags = ["--recipe", "scienceqa-pocket", "--output", str(output), "--json"]
            told = command("finetune", *flags, *settings(family, base, world))
            done[family] = output, told
        return done[family]

    return make


def command(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


@every_family
def test_a_run_trains_everything_it_saves_and_answers_every_problem(
    family: str, run_of: Callable[[str], tuple[Path, dict[str, Any]]]
) -> None:
    folder, told = run_of(family)
    assert told["figures"]["steps"] == 3
    weights = load_file(folder / WEIGHTS)
    ups = {name: value for name, value in weights.items() if "routed_up.weight" in name}
    moved = {name: value.flatten(1).any(dim=1) for name, value in ups.items()}
    # A tiny router by token may choose the same two of its three experts for all tokens; every other expert has work.
    assert [name for name, experts in moved.items() if not experts.any()] == []
    assert [name for name, experts in moved.items() if len(experts) != BY_TOKEN and not experts.all()] == []
    by_token = any(len(experts) == BY_TOKEN for experts in moved.values())
    assert by_token is (find_obstacle("moe_lora", FAMILIES[family]) is None)
    assert any(".modules_to_save." in name or "routed_" not in name for name in weights), "the connector is in the file"
    answers = read_results(folder / RESULTS).predictions
    assert len(answers) == 6
    assert None not in answers.values()
    logged = json.loads((folder / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in logged if "loss" in entry]
    for entry in entries if by_token else ():
        assert 0 <= entry["expert_share_min"] <= 1 / BY_TOKEN <= entry["expert_share_max"] <= 0.5


@every_family
def test_answers_are_written_by_the_adapted_model(
    family: str, run_of: Callable[[str], tuple[Path, dict[str, Any]]]
) -> None:
    folder, _ = run_of(family)
    written = ["--set", "evaluation.answer=generate", "--set", "evaluation.max_new_tokens=4"]
    told = command("evaluate", str(folder), "--limit", "6", "--json", *written)
    assert set(told["scores"]) == {"random choice", "adapter"}


@pytest.mark.slow
def test_in_a_process_of_its_own_every_adapter_scores_as_it_did(
    run_of: Callable[[str], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    finished = {family: run_of(family)[0] for family in RUN}
    script = """
    import sys
    from lora_mm.cli.main import app
    out, *folders = sys.argv[1:]
    for folder in folders:
        family = folder.rsplit("/", 1)[-1]
        app(["evaluate", folder, "--limit", "6", "--predictions", f"{out}/{family}.json"], standalone_mode=False)
    """
    call = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), *map(str, finished.values())]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for family, folder in finished.items():
        assert read_results(tmp_path / f"{family}.json") == read_results(folder / RESULTS), family
