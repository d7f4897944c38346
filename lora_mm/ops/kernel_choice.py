"""The names of the choice of kernels. Imports no torch, so that a recipe is checked without it."""

from typing import Literal

Kernels = Literal["auto", "triton", "torch"]
"""Which form of an operation runs: ``torch`` is PyTorch everywhere, ``triton`` is Triton wherever it can run, ``auto``
is Triton where :data:`~lora_mm.ops.dispatch.FASTER` lists it."""
