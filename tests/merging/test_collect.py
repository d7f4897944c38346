"""Changes of linear layers as they are read off an adapted model."""

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.errors import InputError
from lora_mm.merging.collect import collect_changes, get_dense_weight, get_unadapted_module
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

MMA = {"method": "mma", "at": "block", "rank": 4, "scale": 0.7}


def adapted(*items: dict[str, object]) -> peft.PeftModel:
    model = lora_mm.attach(tiny_model(), list(items)).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("modality", ["text", "image"])
@torch.no_grad()
def test_every_reader_of_an_adapted_norm_changes_with_it(modality: str) -> None:
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
        weight, bias = change.merge_into(get_dense_weight(get_unadapted_module(base, path)).clone(), None)
        torch.testing.assert_close(F.linear(norm, weight, bias), reads[path], rtol=1e-4, atol=1e-4)
        assert (F.linear(norm, get_dense_weight(get_unadapted_module(base, path))) - reads[path]).abs().max() > 0.01, (
            name
        )


def test_an_untrained_adapter_changes_nothing() -> None:
    model = lora_mm.attach(tiny_model(), [MMA]).get_base_model()
    for path, change in collect_changes(model, "text").items():
        weight = get_dense_weight(get_unadapted_module(model, path))
        merged, shift = change.merge_into(weight.clone(), None)
        assert torch.equal(merged, weight)
        assert shift is not None
        assert not shift.any()


def test_an_unknown_modality_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"the base has text, image\. Did you mean 'image'"):
        collect_changes(adapted(MMA).get_base_model(), "imag")


def test_a_module_trained_whole_is_read_as_trained() -> None:
    model = lora_mm.attach(tiny_model(), [MMA], train=["connector"])
    perturb(model)
    path = "model.multi_modal_projector.linear_1"
    trained: nn.Module = get_unadapted_module(model.get_base_model(), path)
    assert not torch.equal(trained.weight, tiny_model().get_submodule(path).weight)
