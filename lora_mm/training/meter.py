"""How fast training goes and what memory it takes, read at every log. Knows no display."""

import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Meter(TrainerCallback):
    """Samples a second since it was last read, and memory: the GPU's peak so far, or without one the process's own."""

    def __init__(self) -> None:
        self._since, self._step, self._samples = time.monotonic(), 0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._since, self._step = time.monotonic(), state.global_step
        self._samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def read(self, step: int) -> dict[str, float]:
        """``samples_per_second`` and ``memory_bytes`` at ``step``, as the Trainer logs them."""
        now = time.monotonic()
        rate = (step - self._step) * self._samples / max(now - self._since, 1e-9)
        self._since, self._step = now, step
        gpu = torch.cuda.is_available()
        memory = torch.cuda.max_memory_allocated() if gpu else psutil.Process().memory_info().rss
        return {"samples_per_second": round(rate, 2), "memory_bytes": memory}
