"""Which form of an operation runs, and what is reported where Triton cannot."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lora_mm.ops import dispatch
from lora_mm.ops.lowrank import routed_update
from lora_mm.ops.triton import available

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


class OnCard:
    """A tensor on a CUDA card, as far as the choice of a form looks at it."""

    is_cuda = True

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@pytest.fixture
def nothing_reported() -> Iterator[None]:
    dispatch._reported.clear()
    yield
    dispatch._reported.clear()


@pytest.fixture
def looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton lacks is looked up in this test, whatever an earlier one found."""
    monkeypatch.setattr(dispatch, "explain_unavailable", available.explain_unavailable.__wrapped__)


@pytest.mark.usefixtures("nothing_reported")
def test_where_triton_cannot_run_pytorch_does_and_it_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(2, 3, 8)
    arguments = (x, x, torch.randn(4, 8), torch.randn(1, 8, 4))
    expected = routed_update(*arguments, kernels="torch")
    assert torch.equal(routed_update(*arguments, kernels="auto"), expected)
    assert capsys.readouterr().err == ""
    assert torch.equal(routed_update(*arguments, kernels="triton"), expected)
    assert torch.equal(routed_update(*arguments, kernels="triton"), expected)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["kernels: residual runs in PyTorch: Triton needs a CUDA or ROCm device, and this is cpu."]


@pytest.mark.usefixtures("looked_up_again")
@pytest.mark.parametrize(
    ("dtype", "columns", "reason"),
    [(torch.float64, 16, "not float64"), (torch.bfloat16, 65, "take up to 64"), (torch.bfloat16, 64, None)],
)
def test_shapes_and_dtypes_that_the_kernels_do_not_take_are_named(
    dtype: torch.dtype, columns: int, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(available.shutil, "which", lambda name: "/usr/bin/cc")
    monkeypatch.setattr(available, "_has_python_headers", lambda: True)
    obstacle = dispatch._explain_obstacle(OnCard(dtype), columns)  # type: ignore[arg-type]
    assert obstacle is None if reason is None else reason in str(obstacle)


@pytest.mark.usefixtures("looked_up_again")
def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(available.shutil, "which", lambda name: None)
    assert "C compiler" in str(dispatch._explain_obstacle(OnCard(torch.bfloat16), 16))  # type: ignore[arg-type]


def test_triton_is_not_imported_before_it_is_needed() -> None:
    seen = "[m for m in sys.modules if m.endswith('triton.kernels')]"
    code = f"import sys, lora_mm.ops.lowrank, lora_mm.ops.linear; print({seen})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
