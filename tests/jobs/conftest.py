"""What the tests of whole runs share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.run_folder import RunResult
from lora_mm.recipe.load import load_recipe
from tests.helpers.estimates import share_estimates
from tests.helpers.runs import console, printed
from tests.helpers.tiny import make_recipe


@pytest.fixture(scope="session", autouse=True)
def shared_estimates() -> Iterator[None]:
    with share_estimates():
        yield


@pytest.fixture(scope="session")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, a checkpoint after the third; MMA with dropout in both parts, and the connector whole."""
    return make_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", base_folder, scienceqa_folder)


@pytest.fixture(scope="session")
def finished(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult, str]:
    """The folder of an uninterrupted run, what it returned and what it printed."""
    folder, out = tmp_path_factory.mktemp("runs") / "whole", console()
    outcome = finetune(load_recipe(str(recipe_file)), folder, out)
    assert outcome is not None
    return folder, outcome, printed(out)
