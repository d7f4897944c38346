"""The Triton kernels' mathematics, in Triton's interpreter, and whether these checks would notice a wrong kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_mm.ops import dispatch as kernels
from lora_mm.ops.lowrank import routed_update

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
    assert found["launched"] == ["expand", "nf4_merged", "outer", "residual", "residual_bwd", "shrink"]
    assert {len(by_dtype) for by_dtype in found["errors"].values()} == {3}
    assert wrong(found) == []


def test_every_planted_bug_is_found() -> None:
    found = checked("--planted")
    assert len(found) > 10
    missed = [bug for bug, errors in found.items() if all(error < TOLERANCE["float32"] for error in errors.values())]
    assert missed == [], "the checks cannot tell a wrong kernel from a right one"


# --- which form runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def choice() -> Any:
    before = kernels.chosen()
    kernels._said.clear()
    yield kernels.choose
    kernels.choose(before)
    kernels._said.clear()


def test_where_triton_cannot_run_pytorch_does_and_says_so_once(choice: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(2, 3, 8)
    arguments = (x, x, torch.randn(4, 8), torch.randn(1, 8, 4))
    choice("torch")
    expected = routed_update(*arguments)
    choice("auto")
    assert torch.equal(routed_update(*arguments), expected)
    assert capsys.readouterr().err == ""
    choice("triton")
    assert torch.equal(routed_update(*arguments), expected)
    assert torch.equal(routed_update(*arguments), expected)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["kernels: residual runs in PyTorch: Triton needs a CUDA or ROCm device, and this is cpu."]


@pytest.mark.parametrize(
    ("dtype", "columns", "said"),
    [(torch.float64, 16, "not float64"), (torch.bfloat16, 65, "take up to 64"), (torch.bfloat16, 64, None)],
)
def test_shapes_and_dtypes_that_the_kernels_do_not_take_are_named(
    dtype: torch.dtype, columns: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCard:
        is_cuda, dtype = True, None

    OnCard.dtype = dtype  # type: ignore[assignment]
    monkeypatch.setattr(kernels.shutil, "which", lambda name: "/usr/bin/cc")
    monkeypatch.setattr(kernels, "_headers", lambda: True)
    monkeypatch.setattr(kernels, "_missing", kernels._missing.__wrapped__)
    reason = kernels._obstacle(OnCard(), columns)  # type: ignore[arg-type]
    assert reason is None if said is None else said in str(reason)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard:
        is_cuda, dtype = True, torch.bfloat16

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    monkeypatch.setattr(kernels, "_missing", kernels._missing.__wrapped__)
    assert "C compiler" in str(kernels._obstacle(OnCard(), 16))  # type: ignore[arg-type]


def test_triton_is_not_imported_before_it_is_needed() -> None:
    seen = "[m for m in sys.modules if m.endswith('triton.kernels')]"
    code = f"import sys, lora_mm.ops.lowrank, lora_mm.ops.linear; print({seen})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
