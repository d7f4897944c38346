"""The plan of a recipe: its steps, its largest batch, and the ways it offers."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from lora_mm.errors import InputError
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.plan import Plan, Way, plan, verdict
from lora_mm.recipe import Recipe, load_recipe
from tests import tiny

GIB = 2**30


@pytest.fixture(scope="module")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.make_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", base_folder, scienceqa_folder))


def recipe(file: str, *overrides: str) -> Recipe:
    return load_recipe(file, ["evaluation.base=false", "training.max_steps=-1", *overrides])


@pytest.mark.parametrize(("batch", "accumulation", "epochs"), [(5, 1, 2.0), (5, 2, 1.0), (24, 1, 1.5)])
def test_steps_are_those_of_the_run(
    recipe_file: str, tmp_path: Path, batch: int, accumulation: int, epochs: float
) -> None:
    made = recipe(
        recipe_file,
        f"training.per_device_train_batch_size={batch}",
        f"training.gradient_accumulation_steps={accumulation}",
        f"training.num_train_epochs={epochs}",
        "data.eval_limit=2",
    )
    outcome = finetune(made, tmp_path / "run", Console(quiet=True))
    assert outcome is not None
    found = plan(made)
    assert found.steps == outcome.figures["steps"]
    assert found.trained == outcome.figures["trained_parameters"]


def test_ways_are_of_equal_steps_and_the_recipes_own_is_first(recipe_file: str) -> None:
    found = plan(
        recipe(
            recipe_file,
            "training.per_device_train_batch_size=2",
            "training.gradient_accumulation_steps=4",
            "training.max_steps=5",
        )
    )
    kinds = [(w.per_device_train_batch_size, w.gradient_accumulation_steps) for w in found.ways]
    assert kinds == [(2, 4), (1, 8), (4, 2)] * 2
    assert [way.gradient_checkpointing for way in found.ways] == [False] * 3 + [True] * 3
    assert found.steps == 5
    plain, kept = found.ways[:3], found.ways[3:]
    assert plain[1].step < plain[0].step < plain[2].step
    for one, other in zip(plain, kept, strict=True):
        assert other.step < one.step
        assert other.flops > one.flops
    assert plain[1].flops == pytest.approx(plain[0].flops, rel=0.05)


def test_the_largest_batch_may_be_one_of_pictures_that_are_not_the_longest(recipe_file: str) -> None:
    found = plan(
        recipe(recipe_file, "training.per_device_train_batch_size=2", "adapters=[{method: mma, part: vision}]")
    )
    assert found.pictures == 2


def made(*steps: float) -> Plan:
    ways = tuple(Way(8 // (n + 1), n + 1, n > 0, int(size * GIB), 1e15 * (n + 1)) for n, size in enumerate(steps))
    return Plan({"language": 4 * GIB}, 1000, GIB, 10, 10, 100, 1, 0.8 * GIB, ways)


def test_the_verdict_names_a_way_that_fits() -> None:
    assert verdict(made(3, 2, 1), 24 * GIB) == "Fits in 24.0 GiB."
    told = verdict(made(10, 5, 1), 12 * GIB)
    assert told.startswith("Does not fit in 12.0 GiB. This does: --set training.per_device_train_batch_size=4 ")
    assert told.endswith("--set training.gradient_accumulation_steps=2 --set training.gradient_checkpointing=true")
    assert "base.quantization=nf4" in verdict(made(10, 9), 8 * GIB)


def test_the_verdict_tells_of_a_way_with_less_work() -> None:
    found = made(3, 2)
    slow, quick = found.ways
    assert "it would compute 50% less" in verdict(replace(found, ways=(quick, slow)), 24 * GIB)


def test_a_run_says_before_it_trains_what_it_will_take(
    recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for memory in (2 * GIB, GIB // 10000):
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: SimpleNamespace(total=memory))
        console = Console(file=io.StringIO(), width=200)
        assert finetune(recipe(recipe_file), tmp_path / "run", console, dry_run=True) is None
        told.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "Training takes some 0.0 of 2.0 GiB.\n" in told[0]
    assert "Warning: Training takes some 0.0 of 0.0 GiB. `lora-mm plan` names" in told[1]


def test_nothing_to_train_on_is_an_error(recipe_file: str) -> None:
    with pytest.raises(InputError, match="left to train on"):
        plan(recipe(recipe_file, "data.max_length=8", "data.overlong=drop"))
