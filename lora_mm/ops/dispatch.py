"""Decides whether an operation runs in PyTorch or in Triton. Knows devices and sizes; knows no mathematics.

The user's choice is stored in the model: adapted layers hold it and pass it on with every update.
"""

from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor

from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.triton.available import explain_unavailable, is_interpreted
from lora_mm.printable import echo

FASTER: Mapping[tuple[str, int], frozenset[str]] = {}
"""(operation, compute capability × 10) → dtypes for which ``auto`` takes Triton: where it beats the compiled PyTorch
form by 15 % in the tables of ``benchmarks/gpu.sh``. Empty because no GPU has measured them yet: ``auto`` is PyTorch."""

MAX_COLUMNS = 64
"""Maximum columns of rank space (experts × rank, and their biases) in the kernels' tiles; at 128 registers spill."""

_reported: set[str] = set()
"""Lines that were printed already."""


def use_triton(kernels: Kernels, operation: str, x: Tensor, columns: int) -> bool:
    """Decide whether ``operation`` on ``x`` runs in Triton. If Triton is chosen but cannot run, print the reason once.

    Args:
        kernels: the model's choice.
        operation: name of the operation, as in :data:`FASTER`.
        x: its input.
        columns: width of rank space.
    """
    if kernels == "torch" or (kernels == "auto" and not _is_faster(operation, x)):
        return False
    obstacle = _explain_obstacle(x, columns)
    if obstacle is not None:
        _report_once(f"kernels: {operation} runs in PyTorch: {obstacle}")
    return obstacle is None


def import_launchers() -> ModuleType:
    """Import the module that launches the kernels. It imports Triton: call this only where Triton runs."""
    from lora_mm.ops.triton import launch

    return launch


def _is_faster(operation: str, x: Tensor) -> bool:
    if not FASTER or not x.is_cuda:
        return False
    major, minor = torch.cuda.get_device_capability(x.device)
    return str(x.dtype).removeprefix("torch.") in FASTER.get((operation, 10 * major + minor), ())


def _explain_obstacle(x: Tensor, columns: int) -> str | None:
    """The reason why Triton cannot run on ``x``; None if it can."""
    if is_interpreted():
        return _explain_too_wide(columns)
    if not x.is_cuda:
        return f"Triton needs a CUDA or ROCm device, and this is {x.device.type}."
    if x.dtype not in (torch.bfloat16, torch.float16):
        # exact fp32 products do not use the tensor cores, and their tiles spill (336 to 1,544 bytes, sm_89)
        return f"its kernels take bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}."
    return _explain_too_wide(columns) or explain_unavailable()


def _explain_too_wide(columns: int) -> str | None:
    if columns <= MAX_COLUMNS:
        return None
    return f"experts × rank is {columns}, and its kernels take up to {MAX_COLUMNS}."


def _report_once(line: str) -> None:
    if line not in _reported:
        _reported.add(line)
        echo(line, stderr=True)
