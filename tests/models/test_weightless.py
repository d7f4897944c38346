"""Models that run without weights: what they use is what the same models use with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle
from lora_mm.models.families import FAMILIES
from lora_mm.models.loading import load_base
from lora_mm.models.memory import measure_memory
from lora_mm.models.precision import Quantization
from lora_mm.models.weightless import META, Usage, count_usage
from lora_mm.training.loss import compute_answer_loss
from tests.helpers.families import family_batch, family_model
from tests.helpers.newer_families import NEWER_FAMILY

ADAPTERS: dict[str, Any] = {
    "mma": {"method": "mma"},
    "lora": {"method": "lora", "rank": 4},
    "crop_lora": {"method": "crop_lora", "at": "block", "rank": 4},
    "moe_lora": {"method": "moe_lora", "rank": 4},
}


def step(model: nn.Module, batch: dict[str, Tensor]) -> None:
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    compute_answer_loss(model.train(), batch).backward()
    optimizer.step()


def batch_of(family: str) -> dict[str, Tensor]:
    batch = family_batch(family, [1, 0, 1])
    labels = batch["input_ids"].clone()
    labels[:, :-3] = -100
    return {**batch, "labels": labels}


OLDER = set(FAMILIES) - set(NEWER_FAMILY)
"""Families that are tried with checkpointing too, which works alike in all."""


def choose_second(family: str, checkpointing: bool) -> list[dict[str, Any]]:
    """An adapter beside LoRA: crop LoRA where the family cuts pictures, else by turns MoE-LoRA and MMA."""
    row = FAMILIES[family]
    methods = ("crop_lora",) if row.crops != "none" else ("moe_lora",) if checkpointing else ()
    applicable = (name for name in (*methods, "mma") if find_obstacle(name, row, METHODS[name].parts[0]) is None)
    return [ADAPTERS[name] for name in applicable][:1]


@pytest.mark.parametrize(
    ("family", "checkpointing"),
    [
        (name, checkpointing)
        for name in FAMILIES
        for checkpointing in (False, True)
        if not checkpointing or name in OLDER
    ],
)
def test_a_step_without_weights_takes_what_the_step_takes(family: str, checkpointing: bool) -> None:
    adapters = [ADAPTERS["lora"], *choose_second(family, checkpointing)]
    used = []
    for device in ("cpu", META):
        torch.manual_seed(0)
        model: Any = lora_mm.attach(family_model(family), adapters, train=["connector"])
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.to(device)
        with count_usage() as usage:
            step(model, batch_of(family))
        used.append((usage.flops, usage.peak, usage.now))
    (flops, *memory), (flops_without, *memory_without) = used
    assert flops_without == pytest.approx(flops, rel=5e-3)
    assert memory_without == pytest.approx(memory, rel=0.05)


def test_what_is_viewed_or_written_into_is_not_counted_again_and_what_is_freed_no_more() -> None:
    x = torch.zeros(100)
    with Usage() as usage:
        x.view(10, 10).t().add_(1)
        assert usage.now == usage.peak == 0
        y = x + 1
        z = y[:50]
        assert usage.now == 400
        del y
        assert usage.now == 400, "a view keeps the whole of what it is of"
        del z
        assert usage.now == 0
    assert usage.peak == 400


def test_whole_numbers_are_real_and_so_are_shapes_that_depend_on_them() -> None:
    weight = torch.ones(9, 4, device=META)
    with count_usage():
        ids = torch.tensor([[1, 3, 3, 2]])
        x = F.embedding(ids.to(META), weight)
        marked = x[ids.to(META) == 3]
        places = torch.arange(4, device=META)
    assert marked.shape == (2, 4)
    assert marked.device == META
    assert places.tolist() == [0, 1, 2, 3]


def test_attention_keeps_no_scores_of_all_tokens_by_all() -> None:
    tokens, query = 2048, torch.zeros(1, 2, 2048, 16, device=META, requires_grad=True)
    with count_usage() as usage:
        F.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
    assert usage.peak < tokens * tokens
    assert usage.flops == pytest.approx(3.5 * 4 * 2 * tokens * tokens * 16)
    assert not F.scaled_dot_product_attention.__module__.startswith("lora_mm")


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_a_base_without_weights_weighs_what_the_loaded_one_does(base_folder: Path, quantization: Quantization) -> None:
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    loaded = load_base(str(base_folder), dtype="bfloat16", quantization=quantization)
    without = load_base(str(base_folder), dtype="bfloat16", quantization=quantization, weights=False)
    assert measure_memory(without.model) == measure_memory(loaded.model)
    assert {parameter.device for parameter in without.model.parameters()} == {META}
