"""Lists versions and devices of this machine, for bug reports and results. Knows no recipe."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lora_mm.models.loading import get_default_device

_PACKAGES = ("lora-mm", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "triton")


def describe_environment() -> dict[str, Any]:
    """Return Python, platform, CPU threads, devices, and packages with their versions, as JSON values."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": torch.get_num_threads(),
        "devices": devices or [get_default_device().type],
        "packages": {package: _find_version(package) for package in _PACKAGES},
    }


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
