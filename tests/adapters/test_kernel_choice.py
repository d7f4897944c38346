"""The choice of kernels belongs to a model: several models in one process keep their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lora_mm
from lora_mm.adapters.config import RoutedConfig
from lora_mm.ops import dispatch
from tests.helpers.tiny import tiny_batch, tiny_model

METHODS: dict[str, Any] = {
    "mma": "mma",
    "plain lora": {"method": "lora", "at": "all", "rank": 2},
    "tokens": {"method": "moe_lora", "rank": 2},
}


@pytest.fixture
def asks_for_triton(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], set[str]]:
    """Runs a step of a model; returns the directions in which some operation asked whether Triton can run."""
    asked: set[str] = set()
    direction = "forward"

    def record(x: torch.Tensor, columns: int) -> str:
        asked.add(direction)
        return "there is no card."

    def run(model: nn.Module) -> set[str]:
        nonlocal direction
        asked.clear()
        direction = "forward"
        loss = model(**tiny_batch()).logits.square().mean()
        direction = "backward"
        loss.backward()
        return set(asked)

    monkeypatch.setattr(dispatch, "_explain_obstacle", record)
    return run


@pytest.mark.parametrize("method", METHODS)
def test_two_models_in_one_process_keep_their_choices(method: str, asks_for_triton: Any) -> None:
    first = lora_mm.attach(tiny_model(), [METHODS[method]], kernels="triton")
    second = lora_mm.attach(tiny_model(), [METHODS[method]], kernels="torch")
    third = lora_mm.attach(tiny_model(), [METHODS[method]])
    assert asks_for_triton(second) == set()
    assert asks_for_triton(first) == {"forward", "backward"}
    assert asks_for_triton(second) == asks_for_triton(third) == set()


def test_an_adapter_added_later_follows_the_model(asks_for_triton: Any) -> None:
    placements = {"default": {"method": "mma", "at": "attn"}, "other": {"method": "moe_lora", "rank": 2}}
    model = lora_mm.attach(tiny_model(), [placements["default"]], kernels="triton")
    model.add_adapter("other", RoutedConfig(placements=[placements["other"]]))
    model.set_adapter("other")
    assert asks_for_triton(model) == {"forward", "backward"}
