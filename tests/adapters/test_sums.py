"""Several placements of one adapter beside the same linear layers: their updates add up."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.errors import InputError
from lora_mm.merging.mergeable import check_mergeable
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

BOTH: list[Any] = [
    {"method": "lora", "at": "all", "rank": 2},
    {"method": "visual_expert", "at": "all", "rank": 3, "dropout": 0},
]
Q = "model.language_model.layers.1.self_attn.q_proj"


def adapted(adapters: list[Any] = BOTH) -> Any:
    torch.manual_seed(0)
    return lora_mm.attach(tiny_model(), adapters).eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(**tiny_batch()).logits
    return found


def test_it_starts_as_the_base_bitwise_and_every_tensor_learns() -> None:
    model = adapted()
    assert torch.equal(logits(model), logits(tiny_model()))
    perturb(model)
    model(**tiny_batch()).logits.square().mean().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
    assert any(f"{Q}.routed_up" in name for name in trained)
    assert any(f"{Q}.base_layer.routed_up" in name for name in trained)


def test_the_updates_of_one_layer_add_up() -> None:
    model = adapted()
    perturb(model)
    layer, seen = model.get_base_model().get_submodule(Q), dict[str, Tensor]()
    layer.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out))
    logits(model)
    outer, inner = layer, layer.base_layer
    assert isinstance(inner, RoutedLayer)
    assert isinstance(inner.base_layer, nn.Linear)
    x, visual = seen["x"], model.base_model.signal.visual.unsqueeze(-1)
    with torch.no_grad():
        expected = inner.base_layer(x)
        for each in (outer, inner):
            down, up = each.routed_down["default"].weight, each.routed_up["default"].weight[0]
            placement = each.placements["default"]
            update = placement.factor * x @ down.T @ up.T
            expected = expected + (update * visual if placement.method == "visual_expert" else update)
    torch.testing.assert_close(seen["y"], expected, rtol=1e-5, atol=1e-5)
    assert {each.placements["default"].method for each in (outer, inner)} == {"lora", "visual_expert"}


def test_saved_and_loaded_it_computes_the_same_bitwise(tmp_path: Path) -> None:
    model = adapted()
    perturb(model)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path)).eval()
    assert torch.equal(logits(loaded), logits(model))
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), logits(tiny_model()))


def test_beside_another_adapter_it_is_switched_on_and_off_and_deleted(tmp_path: Path) -> None:
    model = adapted()
    perturb(model)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    other = adapted([{"method": "visual_expert", "at": "qkv", "rank": 4}])
    perturb(other, size=0.3)
    alone = logits(other)
    other.load_adapter(str(tmp_path), "second")
    assert torch.equal(logits(other), alone)
    other.set_adapter("second")
    assert torch.equal(logits(other), logits(model))
    other.delete_adapter("second")
    other.set_adapter("default")
    assert torch.equal(logits(other), alone)


@torch.no_grad()
def test_generation_with_a_cache_writes_what_it_writes_without() -> None:
    model = adapted()
    perturb(model)
    options = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": list(range(5))}
    cached, plain = (model.generate(**tiny_batch(), **options, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, plain)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted().train()
        perturb(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**tiny_batch(), use_cache=False).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("adapters", "reason"),
    [
        (["mma", {"method": "mma", "at": "block"}], "Each changes what the other reads"),
        ([{"method": "lora", "at": "all"}, {"method": "lora", "at": "ffn"}], "Their updates are of one kind"),
        (["moe_lora", {"method": "lora", "at": "ffn"}], "Experts side by side run the whole feed-forward"),
        ([*BOTH, {"method": "lora", "at": "qkv"}], "Their updates are of one kind"),
    ],
)
def test_what_does_not_add_up_is_refused(adapters: list[Any], reason: str) -> None:
    with pytest.raises(InputError, match=rf"Two adapters on one module, .*{reason}; give each its own"):
        lora_mm.attach(tiny_model(), adapters)


def test_a_sum_with_a_routed_update_does_not_merge() -> None:
    with pytest.raises(InputError, match="visual_expert on language at all cannot be merged"):
        check_mergeable(dict(adapted().peft_config), None)
