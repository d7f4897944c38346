"""The choice of kernels, by name. Imports no torch, so that a recipe can be checked without it."""

from typing import Literal

Kernels = Literal["auto", "triton", "torch"]
"""How operations run: ``torch`` is PyTorch everywhere, ``triton`` is Triton wherever it can run, and ``auto`` is Triton
where :data:`~lora_mm.ops.dispatch.FASTER` lists it."""
