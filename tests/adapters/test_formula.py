"""LaVIN's adapter, written out slowly from its paper's mechanics and placed by hand, as the oracle of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

TEXT, IMAGE = 0, 1
SCALE, TEMPERATURE = 0.7, 3.0


class Lavin(nn.Module):
    """One adapter with its residual: a shared 1×1 convolution down, two grouped ones up, a router on a modality."""

    def __init__(self, layer: RoutedLayer, *, experts: int = 2, groups: int = 2) -> None:
        super().__init__()
        down, up = layer.routed_down["default"].weight.detach(), layer.routed_up["default"].weight.detach()
        rank, width = down.shape
        self.down = nn.Conv1d(width, rank, 1)
        self.down.weight.data = down.unsqueeze(-1)
        self.down.bias.data = layer.routed_down["default"].bias.detach()
        self.up = nn.ModuleList(nn.Conv1d(rank, width, 1, groups=groups) for _ in range(experts))
        for expert, convolution in enumerate(self.up):
            convolution.weight.data = up[expert].unsqueeze(-1)
            convolution.bias.data = layer.routed_up["default"].bias[expert].detach()
        self.router = nn.Linear(width, experts)
        self.router.weight.data = layer.routed_router["default"].weight.detach()
        self.router.bias.data = layer.routed_router["default"].bias.detach()

    def weights(self, modality: Tensor) -> Tensor:
        token = modality / (modality.pow(2).mean() + 1e-6).sqrt()  # what RMSNorm makes of LaVIN's first token
        return F.softmax(self.router(token) / TEMPERATURE, dim=-1)

    def forward(self, x: Tensor, modality: Tensor) -> Tensor:
        weights = self.weights(modality)
        hidden = self.down(x.transpose(1, 2))
        update = torch.zeros_like(x)
        for weight, convolution in zip(weights, self.up, strict=True):
            update = update + SCALE * weight * convolution(hidden).transpose(1, 2)
        return x + update


def adapted(at: str = "attn") -> peft.PeftModel:
    fields = {"method": "mma", "at": at, "scale": SCALE, "temperature": TEMPERATURE}
    model = lora_mm.attach(tiny_model(), [fields, {**fields, "part": "vision"}]).eval()
    perturb(model)
    return model


def layers(model: nn.Module, part: str) -> dict[str, RoutedLayer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, RoutedLayer) and part in path}


@contextmanager
def by_hand(base: nn.Module, model: peft.PeftModel, kind: int) -> Iterator[None]:
    """Put the oracle behind the norms of ``base`` that are adapted in ``model``, for samples of one modality."""
    handles = []
    for part, modality in (("language_model", kind), ("vision_tower", 0)):
        found = layers(model, part)
        embedding = next(iter(found.values())).routed_modality["default"].weight[modality].detach()
        for path, layer in found.items():
            norm = base.get_submodule(path.removeprefix("base_model.model."))
            adapter = Lavin(layer)

            def after(_: nn.Module, __: object, x: Tensor, adapter: Lavin = adapter, m: Tensor = embedding) -> Tensor:
                return adapter(x, m)

            handles.append(norm.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("at", ["attn", "block"])
@pytest.mark.parametrize("kind", [TEXT, IMAGE])
@torch.no_grad()
def test_the_model_computes_what_lavins_adapter_computes(at: str, kind: int) -> None:
    model, base, batch = adapted(at), tiny_model(), tiny_batch()
    row = slice(0, 1) if kind == IMAGE else slice(1, 2)
    single = {name: batch[name][row] for name in ("input_ids", "attention_mask")}
    if kind == IMAGE:
        single["pixel_values"] = batch["pixel_values"]
    unadapted = base(**single).logits
    with by_hand(base, model, kind):
        expected = base(**single).logits
    torch.testing.assert_close(model(**single).logits, expected, rtol=1e-5, atol=1e-5)
    assert (expected - unadapted).abs().max() > 0.1


@torch.no_grad()
def test_one_layer_equals_the_oracle_on_each_row_of_a_mixed_batch() -> None:
    model = adapted()
    model(**tiny_batch())  # row 0 has a picture, row 1 has none
    found = list(layers(model, "language_model").values())
    embedding = found[0].routed_modality["default"].weight
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(0))
    for layer in found:
        normed = layer.base_layer(x)
        expected = torch.cat([Lavin(layer)(normed[:1], embedding[IMAGE]), Lavin(layer)(normed[1:], embedding[TEXT])])
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        swapped = Lavin(layer)(normed[:1], embedding[TEXT])
        assert (swapped - expected[:1]).abs().max() > 1e-3, "the modalities must differ for this test to say anything"


@torch.no_grad()
def test_routing_table_is_the_oracles_softmax() -> None:
    model = adapted()
    found = list(layers(model, "language_model").values())
    for layer in found:
        for kind, row in enumerate(layer.compute_routing_table("default")):
            expected = Lavin(layer).weights(found[0].routed_modality["default"].weight[kind])
            torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [TEXT, IMAGE])
@torch.no_grad()
def test_for_one_modality_the_adapter_folds_into_q_k_and_v(kind: int) -> None:
    """W' = W (I + B_m A) and b' = W (B_m a + b_m), where B_m = s Σ w_e B_e: what makes a merge exact."""
    model = adapted()
    model(**tiny_batch())
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
    for path, layer in layers(model, "language_model").items():
        weights = layer.compute_routing_table("default")[kind]
        down, a = layer.routed_down["default"].weight, layer.routed_down["default"].bias
        up, bias = torch.zeros(48, 8), torch.zeros(48)
        for expert in range(2):
            block = layer.routed_up["default"].weight[expert]  # [48, 4]: upper outputs read units 0–3, lower 4–7
            up[:24, :4] += SCALE * weights[expert] * block[:24]
            up[24:, 4:] += SCALE * weights[expert] * block[24:]
            bias += SCALE * weights[expert] * layer.routed_up["default"].bias[expert]
        row = 0 if kind == IMAGE else 1
        adapted_input, plain_input = layer(x)[row], layer.base_layer(x)[row]
        attention = model.get_submodule(path.removesuffix("input_layernorm") + "self_attn")
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            weight = projection.weight
            folded = F.linear(plain_input, weight @ (torch.eye(48) + up @ down), weight @ (up @ a + bias))
            torch.testing.assert_close(folded, projection(adapted_input), rtol=1e-5, atol=1e-5)
            assert (folded - projection(plain_input)).abs().max() > 0.05
