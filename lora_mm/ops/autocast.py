"""Checks for autocast and switches it off, on any device, so that operations keep the dtypes of their operands."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def is_autocast_on(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``; False for a device without autocast, such as ``meta``."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context manager that switches off autocast on the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False) if is_autocast_on(x) else nullcontext()
