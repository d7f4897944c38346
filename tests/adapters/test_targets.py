"""Which modules of a tiny LLaVA the placements target, and what is refused. Nothing changes the model."""

from typing import Any

import pytest

from lora_mm.adapters.placement import parse_placement
from lora_mm.adapters.targets import Target, describe_coverage, resolve_targets
from lora_mm.errors import InputError
from tests.helpers.families import family_model
from tests.helpers.tiny import tiny_model

LANGUAGE, VISION = "model.language_model.layers", "model.vision_tower.encoder.layers"


def resolve(*placements: Any) -> dict[str, Target]:
    return resolve_targets(tiny_model(), [parse_placement(item) for item in placements])


@pytest.mark.parametrize(
    ("fields", "roles"),
    [
        ({"method": "mma"}, {f"{LANGUAGE}.{n}.input_layernorm": "attn_norm" for n in (0, 1)}),
        (
            {"method": "mma", "part": "vision", "at": "block", "layers": [0]},
            {f"{VISION}.0.layer_norm1": "attn_norm", f"{VISION}.0.layer_norm2": "ffn_norm"},
        ),
        (
            {"method": "lora", "at": "qkv", "layers": [1]},
            {f"{LANGUAGE}.1.self_attn.{role}_proj": role for role in ("q", "k", "v")},
        ),
        ({"method": "crop_lora", "at": "mlp"}, {f"{VISION}.{n}.mlp.fc2": "down" for n in (0, 1)}),
        ({"method": "mma", "layers": "even"}, {f"{LANGUAGE}.0.input_layernorm": "attn_norm"}),
    ],
)
def test_a_placement_targets_the_modules_of_its_site(fields: dict[str, Any], roles: dict[str, str]) -> None:
    targets = resolve(fields)
    assert {path: target.role for path, target in targets.items()} == roles
    assert all(path.startswith(f"{target.layer}.") for path, target in targets.items())


def test_beside_a_whole_mlp_the_update_reads_the_norm_before_it() -> None:
    targets = resolve({"method": "crop_lora", "at": "mlp"})
    assert [target.residual for target in targets.values()] == [f"{VISION}.{n}.layer_norm2" for n in (0, 1)]


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ([{"method": "mma", "layers": [1, 2]}], r"layers \[2\] do not exist.* layers 0 to 1"),
        ([{"method": "mma", "part": "vision", "layers": [2]}], r"layers \[2\] do not exist or are never read"),
        ([{"method": "mma", "layers": [-1]}], r"layers.*input should be greater than or equal to 0, not -1"),
        ([{"method": "mma", "layers": []}], "matches no module"),
        (["mma", {"method": "mma", "at": "block"}], "Two adapters on one module, .*input_layernorm"),
        (["lora", {"method": "lora", "at": "qkv"}], "Two adapters on one module, .*q_proj"),
        ([{"method": "mma", "rank": 5, "groups": 5}], "groups 5 must divide the layer's width, 48"),
    ],
)
def test_a_placement_that_fits_no_module_is_refused(placements: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(*placements)


def test_all_faults_of_the_placements_are_reported_at_once() -> None:
    wrong = ["mma", {"method": "mma", "layers": [7]}, {"method": "mma", "at": "block"}, {"method": "mma", "layers": []}]
    with pytest.raises(InputError) as error:
        resolve(*wrong)
    beyond, clash, nothing = error.value.faults
    assert "layers [7] do not exist" in beyond
    assert "input_layernorm and on 1 more: mma on language at attn and mma on language at block" in clash
    assert nothing == "mma on language at attn matches no module of this model: leave `layers` out to adapt all layers."


def test_what_some_layers_lack_is_counted() -> None:
    model = family_model("qwen3_5")
    (line,) = describe_coverage(model, [parse_placement("lora")])
    assert line.startswith("lora on language at attn: of 2 layers ")
    assert "1 have q, k, v, qkv, attn_gate" in line
    assert "2 have o" in line
    assert describe_coverage(model, [parse_placement({"method": "lora", "at": "ffn"}), parse_placement("mma")]) == []
    assert describe_coverage(family_model("llava"), [parse_placement("lora")]) == []
