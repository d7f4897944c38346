"""Whether Triton can run on this machine. Imports no Triton; knows no operation and no sizes."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any


@cache
def explain_unavailable() -> str | None:
    """The reason why Triton cannot compile kernels on this machine, and what to install; None if it can.

    Cached, because operations call it in every step.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; CUDA builds of torch bring it."
    if not (_find_compiler() and _has_python_headers()):
        return "Triton needs a C compiler and Python's headers at its first launch (install gcc and python3-dev)."
    return None


def is_interpreted() -> bool:
    """Whether Triton runs in its interpreter, on the CPU (``TRITON_INTERPRET=1`` before its import)."""
    triton: Any = sys.modules.get("triton")
    return triton is not None and bool(triton.knobs.runtime.interpret)


def _find_compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def _has_python_headers() -> bool:
    return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
