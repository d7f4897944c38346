"""What a training step uses, foreseen: against the same step taken, and how it moves with its settings."""

from pathlib import Path
from typing import Any

import pytest
import torch

import lora_mm
from lora_mm.models.loading import load_base
from lora_mm.models.precision import Quantization
from lora_mm.models.weightless import META, Usage
from lora_mm.training.loss import compute_answer_loss
from lora_mm.training.memory import CannotEstimateError, measure_step
from tests.helpers.tiny import tiny_batch, tiny_model

ADAPTERS = ["mma", {"method": "mma", "part": "vision"}]


def labelled(rows: int = 1) -> dict[str, torch.Tensor]:
    batch = {name: torch.cat([tensor] * rows) for name, tensor in tiny_batch().items()}
    return {**batch, "labels": batch["input_ids"].clone()}


def adapted(device: Any = META) -> Any:
    torch.manual_seed(0)
    return lora_mm.attach(tiny_model(), ADAPTERS).to(device)


def test_it_is_what_a_second_step_takes() -> None:
    model = adapted("cpu").train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with Usage() as usage:
        for _ in range(2):
            stays = usage.peak = usage.now
            usage.flops = 0
            compute_answer_loss(model, labelled()).backward()
            optimizer.step()
            optimizer.zero_grad()
    use = measure_step(adapted(), labelled(), gradient_checkpointing=False)
    assert use.optimizer == pytest.approx(stays, rel=0.02)
    assert use.peak == pytest.approx(usage.peak - stays, rel=0.05)
    assert use.flops == usage.flops


def test_checkpointing_takes_less_memory_and_more_work_and_can_be_left_again() -> None:
    model = adapted()
    without, with_it, again = (
        measure_step(model, labelled(4), gradient_checkpointing=checkpointing) for checkpointing in (False, True, False)
    )
    assert with_it.peak < without.peak
    assert with_it.flops > without.flops
    assert again.flops == without.flops
    assert again.peak == pytest.approx(without.peak, rel=0.05)


def test_twice_the_examples_are_twice_the_work() -> None:
    model = adapted()
    one, two = (measure_step(model, labelled(rows), gradient_checkpointing=False) for rows in (2, 4))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert 1.5 * one.peak < two.peak < 2.1 * one.peak


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_does_the_same_work(base_folder: Path, quantization: Quantization) -> None:
    pytest.importorskip("bitsandbytes")
    flops = []
    for kind in ("none", quantization):
        base = load_base(str(base_folder), dtype="bfloat16", quantization=kind, weights=False)
        with torch.device(META):
            model = lora_mm.attach(base.model, ADAPTERS)
        flops.append(measure_step(model, labelled(), gradient_checkpointing=False).flops)
    assert flops[1] == pytest.approx(flops[0], rel=0.1)


def test_a_batch_that_reaches_nothing_that_trains_takes_no_backward() -> None:
    model: Any = lora_mm.attach(tiny_model(), [], train=["connector"]).to(META)
    text = {name: tensor for name, tensor in labelled().items() if name != "pixel_values"}
    text["input_ids"] = text["input_ids"].clamp(min=10)
    assert measure_step(model, text, gradient_checkpointing=False).peak > 0


def test_a_model_that_asks_its_activations_for_data_cannot_be_foreseen() -> None:
    model = adapted()
    model.register_forward_pre_hook(lambda module, args: float(next(module.parameters()).sum()))
    with pytest.raises(CannotEstimateError, match="cannot run without its weights"):
        measure_step(model, labelled(), gradient_checkpointing=False)
