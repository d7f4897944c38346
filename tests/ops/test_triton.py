"""The Triton kernels' mathematics, in Triton's interpreter, and whether these checks would notice a wrong kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
TOLERANCE = {"float32": 1e-6, "float16": 1.5e-3, "bfloat16": 1.5e-2}
"""Largest error, as a ratio of norms. The interpreter cuts bf16 off where a card rounds."""


def checked(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.ops.triton_checks", *options]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wrong(found: dict[str, Any]) -> list[str]:
    """What is off by more than rounding; NaN, where nothing was written, is never below a tolerance."""
    return [
        f"{case}, {dtype}: {name} {error:.1e}"
        for case, by_dtype in found["errors"].items()
        for dtype, errors in by_dtype.items()
        for name, error in errors.items()
        if not error < TOLERANCE[dtype]
    ]


def test_every_kernel_agrees_with_float64_in_every_dtype() -> None:
    found = checked()
    launched = ["expand", "nf4_merge", "outer", "residual", "residual_bwd", "shrink"]
    assert found["launched"] == [f"launch_{name}" for name in launched]
    assert {len(by_dtype) for by_dtype in found["errors"].values()} == {3}
    assert wrong(found) == []


def test_every_planted_bug_is_found() -> None:
    found = checked("--planted")
    assert len(found) > 10
    missed = [bug for bug, errors in found.items() if all(error < TOLERANCE["float32"] for error in errors.values())]
    assert missed == [], "the checks cannot tell a wrong kernel from a right one"
