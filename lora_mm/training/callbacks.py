"""Trainer callbacks: measure speed and memory, check gradients, stop on a signal. Knows no recipe."""

import time
from collections.abc import Callable
from typing import Any

import peft
import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_mm import distributed
from lora_mm.errors import LoraMMError
from lora_mm.interrupt import Interrupt
from lora_mm.models.anatomy import find_part


class Meter(TrainerCallback):
    """Measures samples per second since the last reading, and memory: the GPU's peak, or the process's on a CPU."""

    def __init__(self) -> None:
        self._last_read, self._last_step, self._samples_per_step = time.monotonic(), 0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, at the first step or at the step of the checkpoint."""
        self._last_read, self._last_step = time.monotonic(), state.global_step
        self._samples_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    def read(self, step: int) -> dict[str, float]:
        """Return ``samples_per_second`` since the last reading, and ``memory_bytes``; ``step`` is the current step."""
        now = time.monotonic()
        samples = (step - self._last_step) * self._samples_per_step
        rate = samples / max(now - self._last_read, 1e-9)
        self._last_read, self._last_step = now, step
        gpu = torch.cuda.is_available()
        memory = torch.cuda.max_memory_allocated() if gpu else psutil.Process().memory_info().rss
        return {"samples_per_second": round(rate, 2), "memory_bytes": memory}


class EpochSetter(TrainerCallback):
    """Sets the sampler's epoch. The Trainer does it too, but not when several processes resume."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch, which decides the order of the examples."""
        kwargs["train_dataloader"].set_epoch(int(state.epoch or 0))


class StopOnInterrupt(Interrupt, TrainerCallback):
    """Stops training after the current step, with a checkpoint, on the first stop signal; at once on the second."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop and save if any rank received a stop signal."""
        if distributed.any_rank(self.requested):
            control.should_save = True
            control.should_training_stop = True


class GradientGuard(TrainerCallback):
    """Stops the run if a trained tensor gets no gradient. Otherwise it would silently be saved untrained.

    Tensors of the vision tower and the connector are checked from the first batch with a picture on.

    Args:
        seen_pictures: returns whether this process has trained on a picture yet.
    """

    def __init__(self, seen_pictures: Callable[[], bool]) -> None:
        self._seen_pictures = seen_pictures
        self._done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise LoraMMError for trained tensors without a gradient."""
        if self._done:
            return
        seen_pictures = distributed.any_rank(self._seen_pictures())
        model = kwargs["model"]
        missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        waiting = [] if seen_pictures else [name for name in missing if _depends_on_pictures(model, name)]
        dead = [name for name in missing if name not in waiting]
        if dead:
            shown = ", ".join(dead[:3]) + (f" and {len(dead) - 3} more" if len(dead) > 3 else "")
            raise LoraMMError(
                f"Step {state.global_step + 1}: {len(dead)} trained tensors got no gradient: {shown}. "
                "They are not on the path from input to loss; leave their layers out (adapters.N.layers)."
            )
        self._done = not waiting


def _depends_on_pictures(model: peft.PeftModel, parameter: str) -> bool:
    part = find_part(model.get_base_model(), parameter.removeprefix("base_model.model."))
    return part in ("vision", "connector")
