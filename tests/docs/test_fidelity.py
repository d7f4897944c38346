"""The page about fidelity names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_claim_about_a_method_names_a_test_or_says_that_none_holds_it() -> None:
    page = (ROOT / "docs" / "reference" / "fidelity.md").read_text(encoding="utf-8")
    section = page.split("\n## Methods\n")[1].split("\n## ")[0]
    for system in section.split("\n### ")[1:]:
        (file,) = re.findall(r"`(tests/parity/\w+\.py)`", system)
        tests = re.findall(r"^def test_(\w+)", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
        rows = [line for line in system.splitlines() if line.startswith("| ")][2:]
        assert rows, file
        for row in rows:
            held_by = row.strip("|").split("|")[-1]
            names = re.findall(r"`(\w+?)_?…?`", held_by)
            assert names or held_by.strip() == "*read*", row
            assert [name for name in names if not any(test.startswith(name) for test in tests)] == [], row
