"""Trainer callbacks: measure speed and memory, check gradients, stop on a signal. Knows no recipe."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import peft
import psutil
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_mm import distributed
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.errors import LoraMMError
from lora_mm.interrupt import Interrupt
from lora_mm.models.anatomy import find_part

ZERO_STEPS = 10
"""Optimizer steps after which a layer whose gradients were all zeros stops the run."""

_ADAPTER_OR_TENSOR = re.compile(r"(\.(lora|routed)_.*|\.\w+)$")
"""What follows the layer in the name of a trained tensor."""


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
    """Stops the run if trained tensors get no gradient, or only zeros: they would silently be saved untrained.

    A missing gradient is a fault at the first step. Zeros are a fault after :data:`ZERO_STEPS` steps in which all
    trained tensors of a layer got nothing else. The vision tower and the connector are checked at steps with a picture.

    Args:
        count_pictured: returns how many batches with a picture this process has trained on.
    """

    # Zeros mean less than a missing gradient. A down-projection gets them until its up-projection has left zero, so a
    # layer is judged as a whole: its up-projection has a gradient from the first step on. Adapters that only some
    # tokens or crops reach are left out: data without these gives them zeros, and so does the last layer for visual
    # tokens, whose output nothing reads. The run reports such experts at its end (find_idle_experts).

    def __init__(self, count_pictured: Callable[[], int]) -> None:
        self._count_pictured, self._pictured = count_pictured, 0
        self._missing_done = False
        self._zero_steps: dict[str, int] | None = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise LoraMMError for trained tensors without a gradient, or with zeros only."""
        if self._missing_done and not self._zero_steps:
            return
        pictured = distributed.any_rank(self._count_pictured() > self._pictured)
        self._pictured = self._count_pictured()
        trained = {name: p for name, p in kwargs["model"].named_parameters() if p.requires_grad}
        self._check_missing(kwargs["model"], trained, state.global_step + 1, pictured)
        self._check_zeros(kwargs["model"], trained, state.global_step + 1, pictured)

    def _check_missing(
        self, model: peft.PeftModel, trained: dict[str, nn.Parameter], step: int, pictured: bool
    ) -> None:
        if self._missing_done:
            return
        missing = [name for name, p in trained.items() if p.grad is None]
        waiting = [] if pictured else [name for name in missing if _depends_on_pictures(model, name)]
        if dead := [name for name in missing if name not in waiting]:
            raise LoraMMError(
                f"Step {step}: {len(dead)} trained tensors got no gradient: {_shorten(dead)}. "
                "They are not on the path from input to loss; leave their layers out (adapters.N.layers)."
            )
        self._missing_done = not waiting

    def _check_zeros(self, model: peft.PeftModel, trained: dict[str, nn.Parameter], step: int, pictured: bool) -> None:
        layers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in trained.items():
            layers.setdefault(_ADAPTER_OR_TENSOR.sub("", name), []).append(parameter)
        if self._zero_steps is None:
            self._zero_steps = {layer: 0 for layer in layers if not _is_reached_by_some(model.get_submodule(layer))}
        for layer in list(self._zero_steps):
            if any(p.grad is not None and bool(p.grad.any()) for p in layers[layer]):
                del self._zero_steps[layer]
            elif pictured or not _depends_on_pictures(model, layer):
                self._zero_steps[layer] += 1
        if dead := [layer for layer, steps in self._zero_steps.items() if steps == ZERO_STEPS]:
            raise LoraMMError(
                f"Step {step}: the trained tensors of {len(dead)} layers got only zeros as gradients in {ZERO_STEPS} "
                f"steps: {_shorten(dead)}. Nothing in them reaches the loss; leave them out (adapters.N.layers)."
            )


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_reached_by_some(layer: nn.Module) -> bool:
    """Whether only some tokens or crops reach the adapters of a layer."""
    placements = layer.placements.values() if isinstance(layer, RoutedLayer) else ()
    return any(placement.row.router in ("crop", "visual", "token") for placement in placements)


def _depends_on_pictures(model: peft.PeftModel, parameter: str) -> bool:
    part = find_part(model.get_base_model(), parameter.removeprefix("base_model.model."))
    return part in ("vision", "connector")
