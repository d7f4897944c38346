"""Which adapters can be merged, and what is said of the others."""

import peft
import pytest

from lora_mm.adapters.config import RoutedConfig
from lora_mm.errors import InputError
from lora_mm.merging.mergeable import check_mergeable


@pytest.mark.parametrize(
    ("method", "reason"),
    [("crop_lora", "each crop"), ("visual_expert", "only visual tokens"), ("moe_lora", "its own experts")],
)
def test_a_placement_that_is_not_one_weight_is_named(method: str, reason: str) -> None:
    config = RoutedConfig(placements=[{"method": "mma"}, {"method": method}])
    with pytest.raises(InputError) as error:
        check_mergeable({"mine": config}, "image")
    assert len(error.value.faults) == 1
    assert f"mine: {method} on" in error.value.faults[0]
    assert reason in error.value.faults[0]
    assert "Keep it as an adapter" in error.value.faults[0]


def test_all_obstacles_are_named_at_once() -> None:
    first = RoutedConfig(placements=[{"method": "mma"}, {"method": "crop_lora"}], modules_to_save=["connector"])
    second = RoutedConfig(placements=[{"method": "moe_lora"}], modules_to_save=["connector"])
    third = peft.LoraConfig(use_dora=True)
    with pytest.raises(InputError) as error:
        check_mergeable({"first": first, "second": second, "third": third}, None)
    faults = error.value.faults
    assert len(faults) == 5
    for words in ("first: crop_lora", "second: moe_lora", "both train connector whole", "third:", "--modality image"):
        assert any(words in line for line in faults), words


def test_mma_in_the_tower_alone_needs_no_modality() -> None:
    check_mergeable({"mine": RoutedConfig(placements=[{"method": "mma", "part": "vision"}])}, None)
