"""Turns a GPU's out-of-memory error into a message that says what to change. Knows no models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lora_mm.errors import LoraMMError


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Report running out of GPU memory inside the block with the settings to change.

    Raises:
        LoraMMError: the GPU ran out of memory.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise LoraMMError(
            f"Out of GPU memory: {str(error).splitlines()[0]}\n"
            "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
            "training.gradient_checkpointing=true, or lower evaluation.per_device_eval_batch_size. "
            "`lora-mm plan` estimates the memory of a run before it starts."
        ) from error
