"""A hundred inputs of the fuzzer: everything is read, or refused in our words."""

from pathlib import Path

import pytest

from benchmarks.fuzz_text import KINDS, count_outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_read_or_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    faults: list[str] = []
    outcomes = count_outcomes(kind, range(20), faults.append)
    assert faults == []
    assert outcomes["refused"] >= 3, "the inputs are broken"
    assert outcomes["accepted"] or kind == "problems", "but not all of them, except the first of ScienceQA's problems"
