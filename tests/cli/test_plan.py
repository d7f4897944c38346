"""``lora-mm plan``: what it prints, and how it ends."""

import json
from pathlib import Path

from tests.cli.conftest import Cli


def test_a_recipe_that_fits_ends_with_0_and_one_that_does_not_with_1(cli: Cli, recipe_file: Path) -> None:
    code, out, err = cli("plan", "--recipe", recipe_file)
    assert (code, err) == (0, "")
    assert "Fits in 24.0 GiB." in out
    assert "2 steps on 24 examples." in out
    code, out, _ = cli("plan", "--recipe", recipe_file, "--vram", 0.5)
    assert code == 1
    assert "does not fit (the recipe)" in " ".join(out.split())


def test_json_is_all_there_is_on_standard_output(cli: Cli, recipe_file: Path) -> None:
    code, out, _ = cli("plan", "--recipe", recipe_file, "--json", "--vram", 1)
    told = json.loads(out)
    assert code == 0
    assert told["fits"] is True
    assert told["memory"] == 2**30
    own = told["options"][0]
    assert own["needed"] == sum(told["parts"].values()) + told["optimizer"] + own["step"] + told["assumed"]


def test_what_cannot_be_planned_is_said_in_a_line(cli: Cli, recipe_file: Path) -> None:
    code, out, err = cli("plan", "--recipe", recipe_file, "--set", "base.model=/nowhere")
    assert (code, out) == (2, "")
    assert err == "base.model: no folder '/nowhere'.\n"
