"""Turns an out-of-memory error, of the GPU or the machine, into a message that says what to change. Knows no models."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lora_mm.errors import LoraMMError, shorten

_ALLOCATION = re.compile("not enough memory|can't allocate memory")
"""How torch says that the machine has no memory."""

_WAY_OUT = (
    "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
    "training.gradient_checkpointing=true, or lower evaluation.per_device_eval_batch_size. "
    "`lora-mm plan` estimates the memory of a run before it starts."
)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Report running out of memory inside the block with the settings to change.

    Raises:
        LoraMMError: the GPU or the machine ran out of memory.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
        first = shorten(next(iter(str(error).splitlines()), type(error).__name__), 200)
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise LoraMMError(f"Out of GPU memory: {first}\n{_WAY_OUT}") from error
        if isinstance(error, MemoryError) or _ALLOCATION.search(str(error)):
            raise LoraMMError(f"Out of memory: {first}\n{_WAY_OUT}") from error
        raise
