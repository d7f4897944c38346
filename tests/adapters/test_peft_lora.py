"""Plain LoRA, trained by our operations: the same function as PEFT's, saved as PEFT's, in PEFT's hands when loaded."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import lora_mm
from lora_mm.adapters import peft_lora
from lora_mm.models.loading import load_base
from lora_mm.ops import nf4
from tests.helpers.families import family_batch, family_model
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

FIELDS = {"method": "lora", "at": "all", "rank": 4, "alpha": 8.0}


def adapted(**fields: object) -> peft.PeftModel:
    model = lora_mm.attach(tiny_model(), [{**FIELDS, **fields}])
    perturb(model)
    return model


def by_peft(model: peft.PeftModel) -> peft.PeftModel:
    """The same adapter in PEFT's own layers."""
    theirs = peft.get_peft_model(tiny_model(), copy.deepcopy(_stock_config(model)))
    theirs.load_state_dict(model.state_dict())
    return theirs


def _stock_config(model: peft.PeftModel) -> peft.LoraConfig:
    return peft.LoraConfig(**{k: v for k, v in model.peft_config["default"].to_dict().items() if k in (
        "r", "lora_alpha", "lora_dropout", "target_modules")})  # fmt: skip


def step(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits = model(**tiny_batch()).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers went into each call of our function."""
    made: list[int] = []

    def counted(x: Any, layers: Any) -> Any:
        made.append(len(layers))
        return original(x, layers)

    original = peft_lora.adapted_linears
    monkeypatch.setattr(peft_lora, "adapted_linears", counted)
    return made


def test_logits_and_gradients_are_those_of_pefts_layers(calls: list[int]) -> None:
    model = adapted()
    ours, theirs = step(model), step(by_peft(model))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-4)
    assert ours[1].keys() == theirs[1].keys()
    for name, grad in theirs[1].items():
        torch.testing.assert_close(ours[1][name], grad, rtol=1e-3, atol=1e-5, msg=name)
    assert calls == [3, 1, 2, 1] * 2, "q, k, v at once, o, gate and up at once, down; in two layers"


def test_no_result_waits_for_longer_than_its_forward(calls: list[int]) -> None:
    model = adapted()
    step(model)
    waiting = [layer.siblings._waiting for layer in model.modules() if isinstance(layer, peft_lora._FusedLora)]
    assert waiting == [{}] * 14


def test_with_dropout_in_training_peft_computes_and_in_evaluation_we_do(calls: list[int]) -> None:
    model = adapted(dropout=0.3)
    step(model)
    assert calls == []
    model.eval()
    torch.testing.assert_close(
        model(**tiny_batch()).logits, by_peft(model).eval()(**tiny_batch()).logits, rtol=1e-4, atol=1e-4
    )
    assert calls


def test_disabled_it_is_the_base(calls: list[int]) -> None:
    model = adapted().eval()
    with model.disable_adapter(), torch.no_grad():
        assert torch.equal(model(**tiny_batch()).logits, tiny_model()(**tiny_batch()).logits)
    assert calls == []


def test_saved_it_is_a_stock_lora_that_peft_loads_into_its_own_layers(tmp_path: Path) -> None:
    model = adapted().eval()
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert "_custom_modules" not in (tmp_path / "adapter_config.json").read_text()
    assert not any(isinstance(layer, peft_lora._FusedLora) for layer in loaded.modules())
    with torch.no_grad():
        torch.testing.assert_close(loaded(**tiny_batch()).logits, model(**tiny_batch()).logits, rtol=1e-4, atol=1e-4)


def test_beside_other_methods_plain_lora_goes_through_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_mm.adapters import layers

    made: list[int] = []
    original = layers.adapted_linears
    monkeypatch.setattr(layers, "adapted_linears", lambda x, f: made.append(len(f)) or original(x, f))
    model = lora_mm.attach(tiny_model(), ["mma", FIELDS])
    model(**tiny_batch())
    assert made == [1] * 14


def test_on_an_nf4_base_it_trains_by_the_merged_weight_and_pefts_gradients_follow(
    base_folder: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(nf4, "MERGED_FROM", 1)
    base = load_base(
        str(base_folder), quantization="nf4", dtype="float32", full_precision=("vision", "connector", "head")
    )
    model = lora_mm.attach(base.model, [FIELDS])
    perturb(model, size=0.05)
    model.train()
    ours = step(model)
    assert calls == [3, 1, 2, 1] * 2
    monkeypatch.setattr(peft_lora, "make_adapted_linear", lambda layer, x: None)  # PEFT's own forward
    theirs = step(model)
    assert len(calls) == 8
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    assert ours[1].keys() == theirs[1].keys()
    for name, grad in theirs[1].items():
        torch.testing.assert_close(ours[1][name], grad, rtol=1e-2, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["mllama", "idefics", "qwen2_5_vl", "blip-2"])
def test_layers_are_computed_together_only_where_they_read_one_tensor(
    family: str, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cross-attention's q reads one tensor, its k and v another; nothing may wait, and PEFT must agree."""
    model = lora_mm.attach(family_model(family), [{"method": "lora", "at": "qkv", "rank": 2}])
    perturb(model)
    model.train()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(**family_batch(family)).logits.square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    ours = gradients()
    assert set(calls) - {1} == {3}
    assert all(not layer.siblings._waiting for layer in model.modules() if isinstance(layer, peft_lora._FusedLora))
    monkeypatch.setattr(peft_lora, "make_adapted_linear", lambda layer, x: None)
    theirs = gradients()
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-3, atol=1e-5, msg=name)
