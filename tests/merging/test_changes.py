"""What adapters make of linear layers: the algebra of updates, and what is read off an adapted model."""

import peft
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.config import RoutedConfig
from lora_mm.errors import InputError
from lora_mm.merging.changes import (
    LayerChange,
    LowRankUpdate,
    check_mergeable,
    collect_changes,
    get_dense_weight,
    get_unadapted_module,
)
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

WIDTH, OUT = 12, 9


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def update(generator: torch.Generator, d_out: int, rank: int, *, biased: bool) -> LowRankUpdate:
    bias = draw(generator, d_out) if biased else None
    return LowRankUpdate(draw(generator, rank, WIDTH), draw(generator, d_out, rank), bias)


def applied(one: LowRankUpdate | None, x: Tensor, d_out: int) -> Tensor:
    """What an update adds, the slow way."""
    if one is None:
        return x.new_zeros(len(x), d_out)
    return F.linear(F.linear(x, one.down), one.up, one.bias)


ranks, biases = st.integers(1, 5), st.booleans()


@given(seed=st.integers(0, 999), rank=ranks, other=ranks, biased=biases, other_biased=biases)
@settings(deadline=None, max_examples=40)
def test_updates_side_by_side_and_one_after_the_other(
    seed: int, rank: int, other: int, biased: bool, other_biased: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = update(generator, WIDTH, rank, biased=biased)
    second = update(generator, WIDTH, other, biased=other_biased)
    x = draw(generator, 4, WIDTH)
    once = x + applied(first, x, WIDTH)
    torch.testing.assert_close(once + applied(second, once, WIDTH), x + applied(second.after(first), x, WIDTH))
    both = applied(first, x, WIDTH) + applied(second, x, WIDTH)
    torch.testing.assert_close(applied(first + second, x, WIDTH), both)


@given(
    seed=st.integers(0, 999),
    before=st.none() | st.tuples(ranks, biases),
    beside=st.none() | st.tuples(ranks, biases),
    has_bias=biases,
)
@settings(deadline=None, max_examples=40)
def test_a_change_is_one_update_and_one_merged_layer(
    seed: int, before: tuple[int, bool] | None, beside: tuple[int, bool] | None, has_bias: bool
) -> None:
    if before is None and beside is None:
        return
    generator = torch.Generator().manual_seed(seed)
    weight, x = draw(generator, OUT, WIDTH), draw(generator, 4, WIDTH)
    bias = draw(generator, OUT) if has_bias else None
    inner = update(generator, WIDTH, before[0], biased=before[1]) if before else None
    outer = update(generator, OUT, beside[0], biased=beside[1]) if beside else None
    change = LayerChange(inner, outer)
    read = x + applied(inner, x, WIDTH)
    expected = F.linear(read, weight, bias) + applied(outer, read, OUT)
    torch.testing.assert_close(F.linear(x, weight, bias) + applied(change.update(weight), x, OUT), expected)
    assert change.biased is any(kind is not None and kind[1] for kind in (before, beside))
    merged, shift = change.merged(weight.clone(), bias)
    torch.testing.assert_close(F.linear(x, merged, shift), expected)


# --- read off a model ----------------------------------------------------------------------------------------------

MMA = {"method": "mma", "at": "block", "rank": 4, "scale": 0.7}


def adapted(*items: dict[str, object]) -> peft.PeftModel:
    model = lora_mm.attach(tiny_model(), list(items)).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("modality", ["text", "image"])
@torch.no_grad()
def test_every_reader_of_an_adapted_norm_changes_as_the_norm_did(modality: str) -> None:
    model = adapted(MMA, {"method": "lora", "at": "all", "part": "language", "rank": 2})
    base = model.get_base_model()
    row = slice(0, 1) if modality == "image" else slice(1, 2)
    batch = tiny_batch()
    single = {name: batch[name][row] for name in ("input_ids", "attention_mask")}
    if modality == "image":
        single["pixel_values"] = batch["pixel_values"]
    found = collect_changes(base, modality)
    layers = [f"model.language_model.layers.{layer}" for layer in range(2)]
    linear = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
              "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
    assert set(found) == {f"{layer}.{name}" for layer in layers for name in linear}
    assert {path for path, change in found.items() if change.before} == {
        f"{layer}.{name}" for layer in layers for name in linear if "o_proj" not in name and "down_proj" not in name
    }
    reads: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    for path, module in base.named_modules():
        if path in found:
            module.register_forward_hook(lambda _, args, out, path=path: reads.__setitem__(path, out))
        elif path.endswith(("input_layernorm.base_layer", "post_attention_layernorm.base_layer")):
            module.register_forward_hook(lambda _, args, out, path=path: norms.__setitem__(path, out))
    model(**single)
    for path, change in found.items():
        if change.before is None:
            continue
        layer, _, name = path.rpartition(".self_attn." if "self_attn" in path else ".mlp.")
        norm = norms[f"{layer}.{'input' if 'self_attn' in path else 'post_attention'}_layernorm.base_layer"]
        weight, bias = change.merged(get_dense_weight(get_unadapted_module(base, path)).clone(), None)
        torch.testing.assert_close(F.linear(norm, weight, bias), reads[path], rtol=1e-4, atol=1e-4)
        assert (F.linear(norm, get_dense_weight(get_unadapted_module(base, path))) - reads[path]).abs().max() > 0.01, (
            name
        )


def test_an_adapter_that_does_nothing_yet_changes_nothing() -> None:
    model = lora_mm.attach(tiny_model(), [MMA]).get_base_model()
    for path, change in collect_changes(model, "text").items():
        weight = get_dense_weight(get_unadapted_module(model, path))
        merged, shift = change.merged(weight.clone(), None)
        assert torch.equal(merged, weight)
        assert shift is not None
        assert not shift.any()


def test_an_unknown_modality_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"the base has text, image\. Did you mean 'image'"):
        collect_changes(adapted(MMA).get_base_model(), "imag")


# --- what cannot be one weight -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "reason"),
    [("crop_lora", "each crop"), ("visual_expert", "only the visual ones"), ("moe_lora", "its own experts")],
)
def test_what_cannot_be_one_weight_is_refused_whole_by_its_placement(method: str, reason: str) -> None:
    config = RoutedConfig(placements=[{"method": "mma"}, {"method": method}])
    with pytest.raises(InputError) as error:
        check_mergeable({"mine": config}, "image")
    assert len(error.value.faults) == 1
    assert f"mine: {method} on" in error.value.faults[0]
    assert reason in error.value.faults[0]
    assert "Keep it as an adapter" in error.value.faults[0]


def test_all_that_stands_in_the_way_is_told_at_once() -> None:
    first = RoutedConfig(placements=[{"method": "mma"}, {"method": "crop_lora"}], modules_to_save=["connector"])
    second = RoutedConfig(placements=[{"method": "moe_lora"}], modules_to_save=["connector"])
    third = peft.LoraConfig(use_dora=True)
    with pytest.raises(InputError) as error:
        check_mergeable({"first": first, "second": second, "third": third}, None)
    told = error.value.faults
    assert len(told) == 5
    for words in ("first: crop_lora", "second: moe_lora", "trains connector whole", "third:", "--modality image"):
        assert any(words in line for line in told), words


def test_mma_in_the_tower_alone_needs_no_modality() -> None:
    check_mergeable({"mine": RoutedConfig(placements=[{"method": "mma", "part": "vision"}])}, None)


def test_of_a_module_trained_whole_the_trained_copy_is_read() -> None:
    model = lora_mm.attach(tiny_model(), [MMA], train=["connector"])
    perturb(model)
    path = "model.multi_modal_projector.linear_1"
    trained: nn.Module = get_unadapted_module(model.get_base_model(), path)
    assert not torch.equal(trained.weight, tiny_model().get_submodule(path).weight)
