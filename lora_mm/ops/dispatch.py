"""Which form of an operation runs: plain PyTorch, or Triton. Knows devices and sizes; knows no mathematics.

``torch`` is PyTorch everywhere. ``triton`` is Triton wherever it can run. ``auto`` is Triton where it was measured to
beat the compiled PyTorch form by 15 %, as :data:`FASTER` says.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Kernels = Literal["auto", "triton", "torch"]

FASTER: Mapping[tuple[str, int], frozenset[str]] = {}
"""(operation, compute capability × 10) → dtypes for which ``auto`` takes Triton. Filled in from the tables that
``benchmarks/gpu.sh`` prints; it is empty because no GPU was at hand yet, so ``auto`` is PyTorch everywhere."""

MAX_COLUMNS = 64
"""Columns in rank space (experts × rank, and their biases) that the kernels have tiles for; at 128 they spill."""

_choice: Kernels = "auto"
_said: set[str] = set()


def choose(kernels: Kernels) -> None:
    """Set the choice for this process."""
    global _choice
    _choice = kernels


def chosen() -> Kernels:
    """The choice now."""
    return _choice


def use_triton(operation: str, x: Tensor, columns: int) -> bool:
    """Whether ``operation`` on ``x`` is to run in Triton; where it was asked for and cannot, says why, once.

    Args:
        operation: name of the operation, as in :data:`FASTER`.
        x: the activations it reads.
        columns: width of rank space.
    """
    if _choice == "torch":
        return False
    if _choice == "auto" and not _faster(operation, x):
        return False
    reason = _obstacle(x, columns)
    if reason is not None:
        _say(f"kernels: {operation} runs in PyTorch: {reason}")
    return reason is None


def launches() -> Any:
    """What launches the kernels; imported only here, where they are to run."""
    from lora_mm.ops.triton import launch as triton_launch

    return triton_launch


def _faster(operation: str, x: Tensor) -> bool:
    if not FASTER or not x.is_cuda:
        return False
    major, minor = torch.cuda.get_device_capability(x.device)
    return str(x.dtype).removeprefix("torch.") in FASTER.get((operation, 10 * major + minor), ())


def _obstacle(x: Tensor, columns: int) -> str | None:
    """What stands in the way of Triton, and the way out."""
    if not x.is_cuda and not interpreted():
        return f"Triton needs a CUDA or ROCm device, and this is {x.device.type}."
    if x.dtype not in (torch.bfloat16, torch.float16) and not interpreted():
        # exact fp32 products leave the tensor cores, and their tiles spill (336 to 1,544 bytes, sm_89)
        return f"its kernels take bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}."
    if columns > MAX_COLUMNS:
        return f"experts × rank is {columns}, and its kernels take up to {MAX_COLUMNS}."
    return None if interpreted() else _missing()


@cache
def _missing() -> str | None:
    """What Triton lacks on this machine; looked up once, as operations ask in every step."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; CUDA builds of torch bring it."
    if not (_compiler() and _headers()):
        return "Triton needs a C compiler and Python's headers at its first launch (install gcc and python3-dev)."
    return None


def interpreted() -> bool:
    """Whether Triton runs in its interpreter, on the CPU (``TRITON_INTERPRET=1`` before its import)."""
    triton: Any = sys.modules.get("triton")
    return triton is not None and bool(triton.knobs.runtime.interpret)


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def _headers() -> bool:
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


def _say(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr)
