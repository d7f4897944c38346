"""Memory estimates that are made once per model and batch: a tiny run spends two thirds of its time on its estimate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def share_estimates() -> Iterator[None]:
    """Within, runs with equal base, adapters, data and batches share one real estimate."""
    from lora_mm.jobs import finetune

    estimates: dict[str, str] = {}
    estimate = finetune.format_estimate

    def look_up(recipe: Any, collator: Any, prepared: Any) -> str:
        training = recipe.training
        batches = training.per_device_train_batch_size, training.gradient_checkpointing
        key = repr((recipe.base, recipe.adapters, recipe.train, recipe.data, batches, list(prepared.lengths)))
        if key not in estimates:
            estimates[key] = estimate(recipe, collator, prepared)
        return estimates[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "format_estimate", look_up)
        yield
