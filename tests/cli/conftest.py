"""The command line in this process, and a finished run for it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_mm.cli.main import run
from lora_mm.recipe.load import load_recipe
from tests.helpers.estimates import share_estimates
from tests.helpers.tiny import make_recipe

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``lora-mm`` with arguments, in this process; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lora-mm", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:  # anything else would be a traceback to the user
            run()
        out, err = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return call


@pytest.fixture(scope="session", autouse=True)
def shared_estimates() -> Iterator[None]:
    with share_estimates():
        yield


@pytest.fixture(scope="session")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    return make_recipe(file, base_folder, scienceqa_folder, training={"max_steps": 2})


@pytest.fixture(scope="session")
def adapter(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    from rich.console import Console

    from lora_mm.jobs.finetune import finetune

    folder = tmp_path_factory.mktemp("runs") / "adapter"
    finetune(load_recipe(str(recipe_file)), folder, Console(quiet=True))
    return folder
