"""The Triton kernels' mathematics, in the interpreter and on a card, and whether these checks notice a wrong kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
TOLERANCE = {"float32": 1e-6, "float16": 1.5e-3, "bfloat16": 1.5e-2}
"""Largest error, as a ratio of norms. The interpreter cuts bf16 off where a card rounds."""


def run_checks(*options: str, interpret: bool = True) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.ops.triton_checks", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def list_errors(result: dict[str, Any]) -> list[str]:
    """Results that differ by more than rounding; NaN, where nothing was written, is never below a tolerance."""
    return [
        f"{case}, {dtype}: {name} {error:.1e}"
        for case, by_dtype in result["errors"].items()
        for dtype, errors in by_dtype.items()
        for name, error in errors.items()
        if not error < TOLERANCE[dtype]
    ]


def test_every_kernel_agrees_with_float64_in_every_dtype() -> None:
    result = run_checks()
    launched = ["expand", "nf4_merge", "outer", "residual", "residual_bwd", "shrink"]
    assert result["launched"] == [f"launch_{name}" for name in launched]
    assert {len(by_dtype) for by_dtype in result["errors"].values()} == {3}
    assert list_errors(result) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_card_every_kernel_agrees_with_float64() -> None:
    result = run_checks(interpret=False)
    assert len(result["launched"]) == 6
    assert list_errors(result) == []


def test_every_planted_bug_is_found() -> None:
    result = run_checks("--planted")
    assert len(result) > 10
    missed = [bug for bug, errors in result.items() if all(error < TOLERANCE["float32"] for error in errors.values())]
    assert missed == [], "the checks cannot tell a wrong kernel from a right one"
