"""The reference pages are those of the code, and the site builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.families import BEGIN, CHECKS, END, PAGE, applies
from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle
from lora_mm.evaluation.metrics import METRICS
from lora_mm.models.families import FAMILIES
from lora_mm.recipe.load import recipe_names
from tests.helpers.bases import LACKING
from tools.docs_site import pages

ROOT = pages.ROOT


def test_the_table_of_families_is_that_of_the_code() -> None:
    written = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines()]
    head, _, *families = [row for row in rows if len(row) > 1]
    told = {row[0].strip("`"): row for row in families}
    again = "run `python -m benchmarks.families`"
    assert head[1:-1] == [f"`{method}`" for method in METHODS], again
    assert list(told) == list(FAMILIES), again
    for family, row in FAMILIES.items():
        for method, cell in zip(METHODS, told[family][1:-1], strict=True):
            refused = find_obstacle(method, row) is not None
            done = [letter for letter in CHECKS if applies(letter, family, method)]
            assert cell == ("–" if refused else f"`{''.join(done)}`"), f"{family}, {method}: {again}"
        assert ("no run" in told[family][-1]) is (family in LACKING), f"{family}: {again}"


def test_generated_pages_have_a_row_for_everything() -> None:
    commands = pages.make_commands_page()
    for name, command in pages.list_commands().items():
        assert f"## lora-mm {name} " in commands
        assert all(option in commands for option in pages.list_options(command))
    assert all(f"| `{method}` |" in pages.make_methods_page() for method in METHODS)
    assert all(f"| `{metric}` |" in pages.make_metrics_page() for metric in METRICS)
    assert all(f"## {name} " in pages.make_recipes_page() for name in recipe_names())
    keys = pages.make_recipe_keys_page()
    assert {"data.slicing.rows", "adapters.rank", "extends"} <= pages.list_recipe_keys()
    assert all(f"`{key.rpartition('.')[2]}`" in keys for key in pages.list_recipe_keys())


def test_every_mark_of_a_page_is_filled_in() -> None:
    for file in (ROOT / "docs").rglob("*.md"):
        filled = pages.fill_in(file.read_text(encoding="utf-8"))
        assert "<!-- generated:" not in filled, file
        assert "<!-- include:" not in filled, file


def test_every_module_has_an_api_entry() -> None:
    listed = {module for modules in pages.list_packages().values() for module in modules}
    there = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in pages.PACKAGE.rglob("*.py")}
    public = {name for name in there if not name.rpartition(".")[2].startswith("_") and ".cli." not in name}
    assert listed == public


@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="pip install -e '.[docs]'")
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?://[^"]*)', page.read_text()
        )
        assert fetched == [], page
