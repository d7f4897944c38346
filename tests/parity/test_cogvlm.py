"""CogVLM's visual expert, which is of full rank, against ours, whose rank is the width of the model.

The formulas are those of THUDM/CogVLM at f7283b2: ``LlamaVisionExpertAttnMixin.attention_forward`` and
``LlamaVisionExpertFCMixin.mlp_forward`` (utils/models/mixin.py): a second copy of each linear layer computes the visual
tokens. Which tokens these are says ``llama2_text_processor.__call__`` (utils/utils/language.py): the begin-of-image
token and the picture's own, and not the end-of-image token. Positions and the picture's path are the base's here.
"""

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from tests.helpers.tiny import perturb, tiny_batch, tiny_model
from tests.parity.law import TOLERANCE, assert_same_function, get_gradients, get_trained, measure_error
from tests.parity.plain import decode, embed, get_frozen, run, widen

WIDTH, PLACEHOLDER, BEGIN, END = 48, 3, 7, 8
SCALE = 0.5


def adapted(*, marks: bool = True) -> peft.PeftModel:
    fields = {"at": "all", "rank": WIDTH, "scale": SCALE, "dropout": 0, "marks": marks}
    model = lora_mm.attach(tiny_model(), [{"method": "visual_expert", **fields}])
    perturb(model, size=0.1)
    return model.double().eval()


def marked_batch() -> dict[str, Tensor]:
    """The rows of ``tiny_batch``; of its picture the placeholders stand between marks."""
    batch = tiny_batch()
    marked, plain = batch["input_ids"]
    ids = torch.stack([
        torch.cat([marked[:1], torch.tensor([BEGIN]), marked[1:5], torch.tensor([END]), marked[5:]]),
        F.pad(plain, (2, 0)),
    ])  # fmt: skip
    return {**batch, "input_ids": ids, "attention_mask": (ids != 0).long()}


def find_served(ids: Tensor, *, marks: bool = True) -> Tensor:
    """CogVLM's ``vision_expert_mask``: from the begin-of-image token to the last token before the end-of-image one."""
    served = torch.zeros_like(ids, dtype=torch.bool)
    for end in (ids == END).nonzero().flatten().tolist():
        served[end - 4 - marks : end] = True
    return served


def get_layers(model: nn.Module) -> dict[str, RoutedLayer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, RoutedLayer)}


def make_weights(model: nn.Module) -> dict[int, Tensor]:
    """The visual weight that our update makes of each layer: W + s B A."""
    weights = {}
    for layer in get_layers(model).values():
        up, down = layer.routed_up["default"].weight[0], layer.routed_down["default"].weight
        weights[id(layer)] = layer.base_layer.weight + SCALE * up @ down
    return weights


def decode_with_experts(
    model: peft.PeftModel, batch: dict[str, Tensor], weights: dict[int, Tensor], *, marks: bool = True
) -> Tensor:
    """Logits of the tokens of all rows, one after the other, without padding."""
    rows = []
    for h, ids, real in zip(embed(batch), batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        served = find_served(ids[real], marks=marks)

        def linear(module: nn.Module, x: Tensor, served: Tensor = served) -> Tensor:
            result = x.new_empty(len(x), len(weights[id(module)]))
            result[~served] = F.linear(x[~served], get_frozen(module).weight)
            result[served] = F.linear(x[served], weights[id(module)])
            return result

        rows.append(decode(model.get_base_model(), h, linear=linear))
    return torch.cat(rows)


def test_the_decoder_computes_cogvlms_experts() -> None:
    model, batch = adapted(), marked_batch()
    theirs = decode_with_experts(model, batch, make_weights(model))
    assert_same_function(run(model, batch), theirs, get_trained(model))
    frozen = {id(layer): layer.base_layer.weight for layer in get_layers(model).values()}
    assert measure_error(theirs, decode_with_experts(model, batch, frozen)) > 0.1, "or the experts do nothing"


def test_our_gradients_are_those_of_full_rank_through_the_update() -> None:
    """With W' = W + s B A: dA = s Bᵀ dW' and dB = s dW' Aᵀ, where dW' is the gradient of CogVLM's expert."""
    model, batch = adapted(), marked_batch()
    weights = {key: weight.detach().requires_grad_() for key, weight in make_weights(model).items()}
    full = get_gradients(decode_with_experts(model, batch, weights), {str(key): w for key, w in weights.items()})
    ours = get_gradients(run(model, batch), get_trained(model))
    for path, layer in get_layers(model).items():
        up, down = layer.routed_up["default"].weight[0], layer.routed_down["default"].weight
        through = full[str(id(layer))]
        assert measure_error(ours[f"{path}.routed_down.default.weight"], SCALE * up.T @ through) <= TOLERANCE
        assert measure_error(ours[f"{path}.routed_up.default.weight"][0], SCALE * through @ down.T) <= TOLERANCE


@torch.no_grad()
def test_every_expert_of_full_rank_is_one_of_ours() -> None:
    """B A = (W' - W) / s has a solution for any W' once the rank is the model's width."""
    model, batch = adapted(), marked_batch()
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer in get_layers(model).values():
        weight = layer.base_layer.weight
        weights[id(layer)] = torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.2
        left, sizes, right = torch.linalg.svd((weights[id(layer)] - weight) / SCALE, full_matrices=False)
        layer.routed_up["default"].weight.zero_()[0, :, : len(sizes)] = left * sizes
        layer.routed_down["default"].weight.zero_()[: len(sizes)] = right
    assert measure_error(run(model, batch), decode_with_experts(model, batch, weights)) <= TOLERANCE


@torch.no_grad()
def test_departure_by_default_the_begin_of_image_token_is_text() -> None:
    model, batch = adapted(marks=False), marked_batch()
    weights = make_weights(model)
    assert measure_error(run(model, batch), decode_with_experts(model, batch, weights, marks=False)) <= TOLERANCE
    assert measure_error(run(model, batch), decode_with_experts(model, batch, weights)) == pytest.approx(0.62, rel=0.02)


@pytest.mark.parametrize("marks", [False, True])
@torch.no_grad()
def test_tokens_that_are_written_are_text(marks: bool) -> None:
    """CogVLM's ``forward`` passes no mask with a single token; nor is the first written token a mark."""
    model, batch = adapted(marks=marks), marked_batch()
    prefill = model(**widen(batch), use_cache=True)
    ids = torch.tensor([[50], [51]])
    mask = torch.cat([batch["attention_mask"], torch.ones_like(ids)], dim=1)
    written = model(ids, attention_mask=mask, past_key_values=prefill.past_key_values).logits[:, -1]
    longer = {**batch, "input_ids": torch.cat([batch["input_ids"], ids], dim=1), "attention_mask": mask}
    lengths = mask.sum(dim=1).cumsum(dim=0) - 1
    expected = decode_with_experts(model, longer, make_weights(model), marks=marks)[lengths]
    assert measure_error(written, expected) <= TOLERANCE
