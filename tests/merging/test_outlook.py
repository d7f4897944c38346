"""What is said before training about merging."""

from typing import Any

import pytest

import lora_mm
from lora_mm.merging.outlook import find_merge_obstacles
from tests.helpers.families import family_model

MMA: dict[str, Any] = {"method": "mma", "bias": False}


@pytest.mark.parametrize(
    ("family", "adapters", "said"),
    [
        ("llava", ["lora", MMA], ""),
        ("llava", ["crop_lora"], "each crop of a picture has its own update"),
        ("qwen2_vl", [{"method": "mma", "at": "block"}], "has none, and no config of 'qwen2_vl' gives it one"),
        ("qwen3_vl_moe", [MMA], ""),
        ("qwen3_vl_moe", [{**MMA, "at": "block"}], r"mlp.gate reads it, a Qwen3VLMoeTextTopKRouter"),
        ("qwen3_5", [{**MMA, "at": "block"}], ""),
        ("aya_vision", [MMA], ""),
    ],
)
def test_an_adapter_that_will_not_merge_says_so_when_it_is_attached(
    family: str, adapters: list[Any], said: str
) -> None:
    obstacles = find_merge_obstacles(lora_mm.attach(family_model(family), adapters))
    assert bool(obstacles) is bool(said)
    assert said in " ".join(obstacles)
