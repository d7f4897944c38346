"""A GPU that is out of memory, as a message that says what to change. Knows no models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lora_mm.errors import LoraMMError


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn a GPU that is out of memory into a message that says what to change."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise LoraMMError(
            f"Out of GPU memory: {str(error).splitlines()[0]}\n"
            "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
            "training.gradient_checkpointing=true, or lower evaluation.per_device_eval_batch_size. What training takes "
            "is told before by `lora-mm plan`."
        ) from error
