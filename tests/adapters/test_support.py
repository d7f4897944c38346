"""Which methods apply to which families: from rows alone, and as a model of the family takes them."""

import pytest

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle, list_methods
from lora_mm.errors import InputError
from lora_mm.models.families import FAMILIES
from tests.helpers.families import family_model

NO_TOWER = {"fuyu", "gemma4_unified"}
MIXTURES = {"qwen3_5_moe", "qwen3_vl_moe"}
CROSS_ATTENTION = {"idefics", "mllama"}


def refused(method: str) -> set[str]:
    return {name for name, row in FAMILIES.items() if find_obstacle(method, row) is not None}


def test_methods_apply_where_a_family_has_what_they_read() -> None:
    assert refused("mma") == refused("lora") == set()
    assert refused("moe_lora") == MIXTURES
    packed = {name for name, row in FAMILIES.items() if row.packed}
    assert {"qwen2_vl", "glm4v", "mllama", "mistral3"} <= packed
    unknown = {name for name, row in FAMILIES.items() if row.crops == "unknown"}
    assert refused("crop_lora") == packed | NO_TOWER | unknown | {"idefics"}
    assert refused("visual_expert") == CROSS_ATTENTION
    assert all(set(list_methods(row)) == set(METHODS) for row in FAMILIES.values())


def test_obstacles_are_explained() -> None:
    assert find_obstacle("crop_lora", FAMILIES["fuyu"]) == "it has no vision tower"
    assert "one row" in str(find_obstacle("crop_lora", FAMILIES["qwen2_vl"]))
    assert "prompt does not show" in str(find_obstacle("crop_lora", FAMILIES["idefics"]))
    assert "cross-attention" in str(find_obstacle("visual_expert", FAMILIES["idefics"]))


def test_a_part_can_be_asked_for() -> None:
    assert find_obstacle("mma", FAMILIES["fuyu"], "language") is None
    assert find_obstacle("mma", FAMILIES["fuyu"], "vision") == "it has no vision tower"
    assert find_obstacle("crop_lora", FAMILIES["llava"], "language") == "crop_lora can be placed on vision only"


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"Unknown method 'mmma'.* Did you mean 'mma'\?"):
        find_obstacle("mmma", FAMILIES["llava"])


def covered(family: str, method: str = "") -> set[str]:
    """What a test here bears out (see benchmarks/families.py)."""
    return {f"no {method}"} if method else set()


@pytest.mark.parametrize(
    ("family", "method"),
    [
        (family, method)
        for family, row in FAMILIES.items()
        for method, no in list_methods(row).items()
        if no is not None
    ],
)
def test_what_does_not_apply_is_refused_with_the_reason_and_what_does(family: str, method: str) -> None:
    model = family_model(family)
    with pytest.raises(InputError) as error:
        lora_mm.attach(model, [method])
    (fault,) = error.value.faults
    reason = find_obstacle(method, FAMILIES[family])
    assert fault.startswith(f"{method} cannot be used on '{family}' models: {reason}. Methods that can: mma, lora")
    assert not any(isinstance(module, RoutedLayer) for module in model.modules())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_applies_can_be_attached(family: str) -> None:
    for method, row in METHODS.items():
        for part in row.parts:
            if find_obstacle(method, FAMILIES[family], part) is None:
                model = lora_mm.attach(family_model(family), [{"method": method, "part": part, "rank": 4}])
                assert any(parameter.requires_grad for parameter in model.parameters())
