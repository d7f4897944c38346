"""Versions and devices, for bug reports and results. Knows no recipe."""

from typing import Any

import torch

from lora_mm.models.loading import get_default_device


def describe_environment() -> dict[str, Any]:
    """Versions and devices, for bug reports and results."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("lora-mm", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "triton")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": torch.get_num_threads(),
        "devices": devices or [get_default_device().type],
        "packages": {package: of(package) for package in packages},
    }
