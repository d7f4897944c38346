"""LaVIN with its modality token, unrolled from the paper's mechanics, as the oracle of ours, which has none.

What is the same, and tested: on every token but the modality token, in text and with a picture, a decoder with
LaVIN's adapters and a real token in front computes what ours computes without it. LaVIN's routers read that token as
their own layer has made it, ``RMSNorm_l(h_l)[0]``, where ours read one embedding for all layers, RMS-normalised. As
the token sees nothing but itself, its state at a layer depends on the modality alone: LaVIN's routing is a table of
layer × modality, and ours can be any such table. So for a LaVIN as it was trained there is one of ours that answers
alike: the routers' weights are solved for here. In the first layer (norms of weight 1) nothing needs solving, as both
read the same.

What differs: training. The table moves with other parameters, and ours has no path from a layer to the next one's
routing.
"""

from dataclasses import dataclass

import peft
import pytest
import torch
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

TEXT, IMAGE = 0, 1
SCALE, TEMPERATURE = 0.7, 3.0


@dataclass
class Adapter:
    """A shared down-projection, two grouped up-projections, and a router on the first token of what comes in."""

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    router: Tensor
    router_bias: Tensor
    read: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [1 + tokens, D], the modality token first, which gates all of them."""
        self.read = self.router @ x[0] + self.router_bias
        gates = torch.softmax(self.read / TEMPERATURE, dim=0)
        rows = []
        for token in x:
            hidden = self.down @ token + self.down_bias
            half_width, half_rank = len(token) // 2, len(hidden) // 2
            update = torch.zeros_like(token)
            for gate, up, bias in zip(gates, self.up, self.up_bias, strict=True):
                upper, lower = up[:half_width] @ hidden[:half_rank], up[half_width:] @ hidden[half_rank:]
                update = update + SCALE * gate * (torch.cat([upper, lower]) + bias)
            rows.append(token + update)
        return torch.stack(rows)


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return torch.stack([norm.weight * token / (token.pow(2).mean() + norm.variance_epsilon).sqrt() for token in x])


def rotated(vector: Tensor, position: int) -> Tensor:
    """Rotary position: the pair of entries i and i + d/2 turns by position · 10000^(-2i/d)."""
    half = len(vector) // 2
    angles = position * 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    first, second = vector[:half], vector[half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()])


def attention(x: Tensor, module: nn.Module) -> Tensor:
    """Causal, head by head and token by token; the first token sees itself only, and no other token sees it."""
    width = module.head_dim
    queries, keys, values = (x @ getattr(module, f"{name}_proj").weight.T for name in "qkv")
    shared = queries.shape[1] // keys.shape[1]  # query heads to a key and value head
    position = [0, *range(len(x) - 1)]  # that of the other tokens is what it would be without the first
    heads = []
    for head in range(queries.shape[1] // width):
        own, of_keys = (
            slice(head * width, (head + 1) * width),
            slice(head // shared * width, (head // shared + 1) * width),
        )
        q = [rotated(row, at) for row, at in zip(queries[:, own], position, strict=True)]
        k = [rotated(row, at) for row, at in zip(keys[:, of_keys], position, strict=True)]
        mixed = []
        for token in range(len(x)):
            seen = [0] if token == 0 else list(range(1, token + 1))
            scores = torch.stack([q[token] @ k[other] for other in seen]) / width**0.5
            mixed.append(torch.softmax(scores, dim=0) @ values[seen, of_keys])
        heads.append(torch.stack(mixed))
    return torch.cat(heads, dim=1) @ module.o_proj.weight.T


def lavin(base: nn.Module, adapters: dict[str, Adapter], embeddings: Tensor, modality: Tensor) -> Tensor:
    """Logits [tokens, vocabulary] of a Llama with LaVIN's adapters and a modality token in front of ``embeddings``."""
    language, h = base.model.language_model, torch.cat([modality[None], embeddings])
    for index, layer in enumerate(language.layers):
        normed = rms_norm(h, layer.input_layernorm)
        if f"{index}.input_layernorm" in adapters:
            normed = adapters[f"{index}.input_layernorm"](normed)
        h = h + attention(normed, layer.self_attn)
        normed = rms_norm(h, layer.post_attention_layernorm)
        if f"{index}.post_attention_layernorm" in adapters:
            normed = adapters[f"{index}.post_attention_layernorm"](normed)
        gate, up = (normed @ getattr(layer.mlp, f"{name}_proj").weight.T for name in ("gate", "up"))
        h = h + (gate * torch.sigmoid(gate) * up) @ layer.mlp.down_proj.weight.T
    return rms_norm(h[1:], language.norm) @ base.lm_head.weight.T


def ours(at: str, **fields: object) -> peft.PeftModel:
    model = lora_mm.attach(
        tiny_model(), [{"method": "mma", "at": at, "scale": SCALE, "temperature": TEMPERATURE, **fields}]
    ).eval()
    perturb(model)
    return model


def routed(model: nn.Module) -> dict[str, RoutedLayer]:
    """Adapted norms of the language model, by their place in it: ``0.input_layernorm``."""
    return {
        path.split(".layers.")[1]: module for path, module in model.named_modules() if isinstance(module, RoutedLayer)
    }


def oracle_of(model: nn.Module, seed: int | None = None) -> dict[str, Adapter]:
    """LaVIN's adapters with our projections; their routers ours too, or with a seed of their own."""
    generator = torch.Generator().manual_seed(seed or 0)
    adapters = {}
    for place, layer in routed(model).items():
        router, bias = layer.routed_router["default"].weight.detach(), layer.routed_router["default"].bias.detach()
        if seed is not None:
            router, bias = (torch.randn(value.shape, generator=generator) for value in (router, bias))
        down, up = layer.routed_down["default"].weight.detach(), layer.routed_up["default"].weight.detach()
        adapters[place] = Adapter(
            down, layer.routed_down["default"].bias.detach(), up, layer.routed_up["default"].bias.detach(), router, bias
        )
    return adapters


def embedded(row: int, seed: int = 0) -> Tensor:
    """What goes into the language model's first layer for a row of the batch, without its padding."""
    base, batch = tiny_model(), tiny_batch(seed)
    real = batch["attention_mask"][row].bool()
    inputs = {name: batch[name][row : row + 1, real] for name in ("input_ids", "attention_mask")}
    if row == 0:
        inputs["pixel_values"] = batch["pixel_values"]
    seen: list[Tensor] = []
    base.model.language_model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    base(**inputs)
    return seen[0]


KINDS = {0: IMAGE, 1: TEXT}
"""Row of the batch → its modality."""


@pytest.mark.parametrize("at", ["attn", "block"])
@torch.no_grad()
def test_a_lavin_with_its_token_is_one_of_ours_without(at: str) -> None:
    model, base = ours(at), tiny_model()
    adapters = oracle_of(model, seed=5)
    tokens = next(layer for layer in routed(model).values()).routed_modality["default"].weight
    expected, read = {}, {}
    for row, kind in KINDS.items():
        expected[row] = lavin(base, adapters, embedded(row), tokens[kind])
        read[kind] = {place: adapter.read for place, adapter in adapters.items()}
    unit = tokens / (tokens.pow(2).mean(dim=1, keepdim=True) + 1e-6).sqrt()
    for place, layer in routed(model).items():  # R m̂ = what LaVIN's router said, for both modalities
        said = torch.stack([read[kind][place] for kind in (TEXT, IMAGE)]) - adapters[place].router_bias
        layer.routed_router["default"].weight.copy_(said.T @ torch.linalg.pinv(unit).T)
        layer.routed_router["default"].bias.copy_(adapters[place].router_bias)
        table = layer.compute_routing_table("default")
        assert (table[TEXT] - table[IMAGE]).abs().max() > 0.01, "the modalities must differ for this to say anything"
    batch = tiny_batch()
    logits = model(**batch).logits  # both rows in one batch, the second padded
    for row in KINDS:
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(logits[row, real], expected[row], rtol=1e-5, atol=1e-5)
        assert (expected[row] - base(**batch).logits[row, real]).abs().max() > 0.1


@torch.no_grad()
def test_in_the_first_layer_both_routers_read_the_same() -> None:
    """LaVIN's ``RMSNorm(m)`` is our m̂ where the norm's weight is 1, as in a model that was just made."""
    model, base = ours("attn", layers=[0]), tiny_model()
    adapters = oracle_of(model)
    tokens = routed(model)["0.input_layernorm"].routed_modality["default"].weight
    batch = tiny_batch()
    logits = model(**batch).logits
    for row, kind in KINDS.items():
        real = batch["attention_mask"][row].bool()
        expected = lavin(base, adapters, embedded(row), tokens[kind])
        torch.testing.assert_close(logits[row, real], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_lavins_routing_depends_on_layer_and_modality_alone() -> None:
    """Whatever the text: the token sees nothing but itself. So a table says all of it."""
    model, base = ours("block"), tiny_model()
    adapters = oracle_of(model, seed=5)
    token = routed(model)["0.input_layernorm"].routed_modality["default"].weight[IMAGE]
    read = []
    for row, seed in ((0, 0), (0, 1), (1, 2)):
        lavin(base, adapters, embedded(row, seed), token)
        read.append(torch.stack([adapter.read for adapter in adapters.values()]))
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[0], read[2])
    assert (read[0][0] - read[0][2]).abs().max() > 0.01, "and layers differ"
