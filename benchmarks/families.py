"""Which methods work on which model families, as their tests find: runs them and writes the table into the docs.

    python -m benchmarks.families

A test module says by ``covered`` which claims a test of it bears out for a family: the name of a method, ``no METHOD``
where it is refused, ``processor`` and ``run``. A failing test leaves the table as it is.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from lora_mm.adapters.methods import METHODS
from lora_mm.models.families import FAMILIES
from tests.helpers.bases import LACKING

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "methods.md"
BEGIN, END = "<!-- families: written by benchmarks/families.py -->\n", "<!-- families: end -->\n"
FILES = (
    "tests/adapters/test_support.py",
    "tests/adapters/test_families.py",
    "tests/adapters/test_crops.py",
    "tests/data/test_encode.py",
    "tests/jobs/test_finetune_families.py",
)

Claims = dict[str, dict[str, int]]
"""Family → claim → tests that passed."""


class Tally:
    """A pytest plugin that counts what each family's passed tests bear out."""

    def __init__(self) -> None:
        self.passed: Claims = defaultdict(lambda: defaultdict(int))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        """Count a test that passed."""
        report = yield
        params = getattr(getattr(item, "callspec", None), "params", {})
        if report.when == "call" and report.passed and "family" in params:
            for claim in item.module.covered(**params):
                self.passed[params["family"]][claim] += 1
        return report


def cell(passed: dict[str, int], method: str) -> str:
    """``✓`` where tests of the method passed, ``–`` where those of its refusal did."""
    works, refused = passed.get(method, 0) > 0, passed.get(f"no {method}", 0) > 0
    return "?" if works is refused else "✓" if works else "–"


def inputs(family: str, passed: dict[str, int]) -> str:
    """How a family's inputs were made in its tests."""
    if not passed.get("processor"):
        return f"model level only: its processor needs {LACKING[family]}"
    runs = "its processor, whole runs" if passed.get("run") else "its processor"
    return f"{runs}; videos at the model level" if "video" in FAMILIES[family].placeholders else runs


def table(passed: Claims) -> str:
    """The table, in Markdown."""
    lines = [f"| model type | {' | '.join(f'`{method}`' for method in METHODS)} | tested through |"]
    lines.append("|---" + "|:-:" * len(METHODS) + "|---|")
    for family in FAMILIES:
        cells = [cell(passed[family], method) for method in METHODS]
        lines.append(f"| `{family}` | {' | '.join(cells)} | {inputs(family, passed[family])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the tests, write the table."""
    tally = Tally()
    code = pytest.main(["-q", "-n", "0", *(str(ROOT / file) for file in FILES)], plugins=[tally])
    if code:
        print(f"Tests failed; {PAGE.name} stays as it is.", file=sys.stderr)
        return int(code)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + table(tally.passed) + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
