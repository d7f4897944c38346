"""The plan of a recipe: its steps, its largest batch, and the options it offers."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lora_mm.data.splits import load_train_and_test
from lora_mm.errors import InputError
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.plan import BatchOption, RunPlan, format_estimate, format_verdict, plan_run
from lora_mm.jobs.session import make_collator_without_weights
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from tests.helpers import tiny
from tests.helpers.own import sound_row, write_rows

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
    found = plan_run(made)
    assert found.steps == outcome.figures["steps"]
    assert found.trained == outcome.figures["trained_parameters"]


def test_options_are_of_equal_steps_and_the_recipes_own_is_first(recipe_file: str) -> None:
    found = plan_run(
        recipe(
            recipe_file,
            "training.per_device_train_batch_size=2",
            "training.gradient_accumulation_steps=4",
            "training.max_steps=5",
        )
    )
    kinds = [(w.per_device_train_batch_size, w.gradient_accumulation_steps) for w in found.options]
    assert kinds == [(2, 4), (1, 8), (4, 2)] * 2
    assert [option.gradient_checkpointing for option in found.options] == [False] * 3 + [True] * 3
    assert found.steps == 5
    plain, kept = found.options[:3], found.options[3:]
    assert plain[1].step < plain[0].step < plain[2].step
    for one, other in zip(plain, kept, strict=True):
        assert other.step < one.step
        assert other.flops > one.flops
    assert plain[1].flops == pytest.approx(plain[0].flops, rel=0.05)


def test_the_largest_batch_may_be_one_of_pictures_that_are_not_the_longest(base_folder: Path, tmp_path: Path) -> None:
    """A tower's adapters take little of a text, however long."""
    rows = [sound_row(tmp_path, number) for number in range(12)]
    for row in rows:
        row["question"] += " Say why." * (0 if "image" in row else 5)
    file = tiny.make_recipe(tmp_path / "tiny.yaml", base_folder, write_rows(tmp_path, rows))
    settings = ["data.eval_share=0.2", "training.per_device_train_batch_size=2"]
    found = plan_run(load_recipe(str(file), [*settings, "train=[]", "adapters=[{method: mma, part: vision}]"]))
    assert found.pictures == 2


def make_plan(*steps: float) -> RunPlan:
    options = tuple(
        BatchOption(8 // (n + 1), n + 1, n > 0, int(size * GIB), 1e15 * (n + 1)) for n, size in enumerate(steps)
    )
    return RunPlan({"language": 4 * GIB}, None, 1000, GIB, 10, 10, 100, 1, options)


def test_the_verdict_names_an_option_that_fits() -> None:
    assert format_verdict(make_plan(3, 2, 1), 24 * GIB) == "Fits in 24.0 GiB."
    told = format_verdict(make_plan(10, 5, 1), 12 * GIB)
    assert told.startswith("Does not fit in 12.0 GiB. This fits: --set training.per_device_train_batch_size=4 ")
    assert told.endswith("--set training.gradient_accumulation_steps=2 --set training.gradient_checkpointing=true")
    assert "base.quantization=nf4" in format_verdict(make_plan(10, 9), 8 * GIB)


def test_the_verdict_names_an_option_with_less_work() -> None:
    found = make_plan(3, 2)
    slow, quick = found.options
    assert "it computes 50% less" in format_verdict(replace(found, options=(quick, slow)), 24 * GIB)


def test_a_run_prints_its_estimated_memory_before_it_trains(recipe_file: str, tmp_path: Path) -> None:
    told = io.StringIO()
    assert finetune(recipe(recipe_file), tmp_path / "run", Console(file=told, width=200), dry_run=True) is None
    assert re.search(r"^Training needs about 0\.0 of [1-9][\d.]* GiB\.$", told.getvalue(), flags=re.MULTILINE)


def test_a_run_that_needs_more_memory_than_there_is_warns(recipe_file: str) -> None:
    made = recipe(recipe_file)
    collator = make_collator_without_weights(made)
    prepared = collator.prepare(load_train_and_test(made)[0].examples, "error")
    assert format_estimate(made, collator, prepared, GIB) == "Training needs about 0.0 of 1.0 GiB."
    assert format_estimate(made, collator, prepared, 1000).startswith(
        "Warning: Training needs about 0.0 of 0.0 GiB. `lora-mm"
    )


def test_nothing_to_train_on_is_an_error(recipe_file: str) -> None:
    with pytest.raises(InputError, match="left to train on"):
        plan_run(recipe(recipe_file, "data.max_length=8", "data.overlong=drop"))
