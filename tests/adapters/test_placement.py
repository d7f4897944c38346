"""Placements as data: defaults by method, every fault named, the update's factor."""

import subprocess
import sys
from dataclasses import asdict

import pytest

from lora_mm.adapters.placement import Placement, parse_placement
from lora_mm.errors import InputError


def faults(**fields: object) -> tuple[str, ...]:
    with pytest.raises(InputError) as error:
        parse_placement({"method": "mma", **fields})
    return error.value.faults


def test_mma_takes_lavins_numbers_where_nothing_is_said() -> None:
    item = parse_placement("mma").resolve()
    assert (item.part, item.at, item.rank, item.experts, item.groups) == ("language", "attn", 8, 2, 2)
    assert (item.temperature, item.dropout, item.bias, item.factor) == (10.0, 0.1, True, 1.0)


def test_lora_takes_one_expert_without_bias() -> None:
    item = parse_placement("lora")
    assert (item.experts, item.groups, item.dropout, item.bias, item.alpha) == (1, 1, 0.0, False, 16.0)


@pytest.mark.parametrize(
    ("method", "drops"), [("mma", "hidden"), ("lora", "input"), ("crop_lora", "hidden"), ("visual_expert", "hidden")]
)
def test_lora_drops_its_input_as_pefts_does_and_the_others_hidden_units(method: str, drops: str) -> None:
    assert parse_placement(method).drops == drops


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({"method": "lora", "rank": 4}, 4.0),
        ({"method": "lora", "rank": 32}, 0.5),
        ({"method": "lora", "rank": 4, "alpha": 2}, 0.5),
        ({"method": "lora", "rank": 4, "alpha": 2, "scale": 3}, 3.0),
        ({"method": "lora", "scale": 0}, 0.0),
        ({"method": "mma", "rank": 4}, 1.0),
        ({"method": "mma", "rank": 4, "alpha": 8}, 2.0),
        ({"method": "mma", "scale": 0.25}, 0.25),
    ],
)
def test_factor_is_the_scale_or_alpha_by_rank(fields: dict[str, object], factor: float) -> None:
    assert parse_placement(fields).resolve().factor == factor


def test_a_placement_passes_unchanged() -> None:
    item = Placement(method="mma", rank=4)
    assert parse_placement(item) is item


ATTENTION = ("q", "k", "v", "qkv", "q_latent", "q_heads", "kv_latent", "kv_heads", "attn_gate", "o")
FEED_FORWARD = ("gate", "up", "gate_up", "down", "shared_gate", "shared_up", "shared_down")


@pytest.mark.parametrize(
    ("method", "at", "roles"),
    [
        ("mma", "attn", ("attn_norm",)),
        ("mma", "block", ("attn_norm", "ffn_norm")),
        ("lora", "qkv", ("q", "k", "v", "qkv")),
        ("lora", "attn", ATTENTION),
        ("lora", "ffn", FEED_FORWARD),
        ("lora", "all", ATTENTION + FEED_FORWARD),
        ("crop_lora", "mlp", ("down",)),
        ("moe_lora", "", ("gate", "up", "gate_up", "down")),
    ],
)
def test_roles_follow_the_site(method: str, at: str, roles: tuple[str, ...]) -> None:
    assert parse_placement({"method": method, "at": at}).roles == roles


def test_every_wrong_field_is_named_at_once() -> None:
    lines = faults(rank=0, dropout=1.5, temperature=0, part="tower", experts="two")
    assert len(lines) == 5
    for name in ("rank", "dropout", "temperature", "part", "experts"):
        assert sum(line.startswith(f"{name}: ") for line in lines) == 1, name


def test_every_contradiction_is_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        parse_placement({"method": "lora", "at": "qvk", "experts": 3, "rank": 8, "groups": 3})
    site, experts, groups = error.value.faults
    assert "no site 'qvk'" in site
    assert site.endswith("Did you mean 'qkv'?")
    assert experts == "3 experts, but lora has only one; use 1."
    assert "groups 3 must divide the rank, 8" in groups


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"method": "crop_lora", "part": "language"}, "crop_lora has no part 'language'; it has: vision."),
        ({"method": "visual_expert", "part": "vision"}, "visual_expert has no part 'vision'; it has: language."),
        ({"method": "moe_lora", "top_k": 5}, "top_k 5 is more than the number of experts, 4."),
        (
            {"method": "mma", "top_k": 2, "balance": 0.1},
            "top_k, balance: mma does not use this, only moe_lora; leave it out.",
        ),
        ({"method": "mma", "tied_qkv": True}, "tied_qkv: mma does not use this, only crop_lora; leave it out."),
        ({"method": "lora", "marks": True}, "marks: lora does not use this, only visual_expert; leave it out."),
    ],
)
def test_what_a_method_cannot_have_is_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError) as error:
        parse_placement(fields)
    assert error.value.faults == (fault,)


@pytest.mark.parametrize("method", ["mma", "lora", "crop_lora", "visual_expert", "moe_lora"])
def test_a_completed_placement_reads_back_as_itself(method: str) -> None:
    item = parse_placement(method)
    assert parse_placement(asdict(item)) == item


@pytest.mark.parametrize(("key", "meant"), [("rnak", "rank"), ("temprature", "temperature"), ("layer", "layers")])
def test_unknown_key_suggests_the_nearest(key: str, meant: str) -> None:
    assert faults(**{key: 1}) == (f"{key}: unknown key. Did you mean '{meant}'?",)


def test_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown method 'lorra'; known: .*mma.* Did you mean 'lora'\?"):
        parse_placement("lorra")


def test_a_placement_without_method_says_so() -> None:
    with pytest.raises(InputError, match="method: is missing"):
        parse_placement({"part": "vision"})


def test_a_value_far_from_everything_gets_no_suggestion() -> None:
    (line,) = faults(zzzzzz=1)
    assert line == "zzzzzz: unknown key."


def test_reading_placements_imports_no_torch() -> None:
    code = "import sys, lora_mm.adapters.placement, lora_mm.recipe; print({'torch', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
