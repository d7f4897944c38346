"""The page about fidelity names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "fidelity.md").read_text(encoding="utf-8")
TABLES = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", PAGE + "\n", flags=re.MULTILINE)]
HELD = [row for head, _, *rows in TABLES if head.endswith("| held by |") for row in rows]
"""Rows of tables whose last column names tests."""


@pytest.mark.parametrize("row", HELD)
def test_every_claim_names_a_test_or_says_that_none_holds_it(row: str) -> None:
    files = (ROOT / "tests" / "parity").glob("test_*.py")
    tests = [name for file in files for name in re.findall(r"^def test_(\w+)", file.read_text(encoding="utf-8"), re.M)]
    held_by = row.strip("|").split("|")[-1].strip()
    names = re.findall(r"`(\w+?)_?…?`", held_by)
    assert names or held_by == "*read*"
    assert [name for name in names if not any(test.startswith(name) for test in tests)] == []


def test_the_page_has_such_tables() -> None:
    assert len(HELD) > 30
