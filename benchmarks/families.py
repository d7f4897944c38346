"""Runs the tests of the model families, and writes a table of methods and families into the docs.

    python -m benchmarks.families

The function ``covered`` of a test module lists the claims that a passing test proves for a family: the name of a
method, ``no METHOD`` if the method is refused, ``processor``, or ``run``. If a test fails, the page is not changed.
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
"""Family → claim → number of passed tests."""


class ClaimCounter:
    """A pytest plugin that counts the claims of passed tests."""

    def __init__(self) -> None:
        self.passed: Claims = defaultdict(lambda: defaultdict(int))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        """Count the claims of a test that passed."""
        report = yield
        params = getattr(getattr(item, "callspec", None), "params", {})
        if report.when == "call" and report.passed and "family" in params:
            for claim in item.module.covered(**params):
                self.passed[params["family"]][claim] += 1
        return report


def format_cell(passed: dict[str, int], method: str) -> str:
    """Write one cell of the table.

    Args:
        passed: claim → number of passed tests of one family.
        method: name of the method.

    Returns:
        ``✓`` if tests of the method passed, ``–`` if tests of its refusal passed, ``?`` if both or none passed.
    """
    works, refused = passed.get(method, 0) > 0, passed.get(f"no {method}", 0) > 0
    return "?" if works is refused else "✓" if works else "–"


def describe_inputs(family: str, passed: dict[str, int]) -> str:
    """Describe how the tests of a family make its inputs.

    Args:
        family: model type.
        passed: claim → number of passed tests of the family.
    """
    if not passed.get("processor"):
        return f"model level only: its processor needs {LACKING[family]}"
    runs = "its processor, whole runs" if passed.get("run") else "its processor"
    return f"{runs}; videos at the model level" if "video" in FAMILIES[family].placeholders else runs


def format_table(passed: Claims) -> str:
    """Write the table in Markdown."""
    lines = [f"| model type | {' | '.join(f'`{method}`' for method in METHODS)} | tested through |"]
    lines.append("|---" + "|:-:" * len(METHODS) + "|---|")
    for family in FAMILIES:
        cells = [format_cell(passed[family], method) for method in METHODS]
        lines.append(f"| `{family}` | {' | '.join(cells)} | {describe_inputs(family, passed[family])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the tests and write the table; return the exit code."""
    counter = ClaimCounter()
    code = pytest.main(["-q", "-n", "0", *(str(ROOT / file) for file in FILES)], plugins=[counter])
    if code:
        print(f"Tests failed; {PAGE.name} is not changed.", file=sys.stderr)
        return int(code)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + format_table(counter.passed) + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
