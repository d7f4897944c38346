"""Monkey's vision tower, unrolled from the paper's formulas and run a view at a time, as the oracle of crop LoRA.

Of the attention's input projection Monkey adapts q, k and v by one LoRA of three times the width. Beside a fused
``qkv`` that is ours; beside separate projections it is ours where the three have one down-projection and one scale, as
set here.
"""

import copy

import peft
import pytest
import torch
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.models.anatomy import find_layers
from tests.helpers.families import IMAGE, SIZE, family_model
from tests.helpers.tiny import perturb

CROPS, RANK = 4, 3
PLACES = {
    "llava": {"in": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "out": "self_attn.out_proj"},
    "blip-2": {"in": ("self_attn.qkv",), "out": "self_attn.projection"},
}
"""CLIP's layers, separate; BLIP's, fused."""


def sliced_batch(pictures: int = 2) -> dict[str, Tensor]:
    """Pictures of four crops and an overview, in a row each; and a row of text alone."""
    generator = torch.Generator().manual_seed(0)
    views = CROPS + 1
    long = [[1, *[IMAGE] * 4 * views, 20 + row, 21, 22] for row in range(pictures)]
    ids = torch.tensor([*long, [0] * (len(long[0]) - 4) + [1, 30, 31, 32]])
    pixels = torch.randn(pictures * views, 3, SIZE, SIZE, generator=generator)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": pixels}


def adapted(family: str) -> peft.PeftModel:
    fields = {"method": "crop_lora", "at": "block", "rank": RANK, "experts": CROPS, "dropout": 0}
    model = lora_mm.attach(family_model(family), [fields]).eval()
    perturb(model, size=0.1)
    return model


class Block:
    """One layer of the tower for one view, with the LoRA of one crop or, for the overview, none."""

    def __init__(self, layer: nn.Module, family: str) -> None:
        places = PLACES[family]
        self.inputs = [layer.get_submodule(path) for path in places["in"]]
        self.output, self.last = layer.get_submodule(places["out"]), layer.mlp.fc2
        self.norms, self.first, self.heads = (layer.layer_norm1, layer.layer_norm2), layer.mlp.fc1, 2
        self.act = {
            "llava": lambda x: x * torch.sigmoid(1.702 * x),
            "blip-2": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        }[family]

    @staticmethod
    def lora(layer: RoutedLayer, crop: int | None, x: Tensor) -> Tensor | float:
        """s · B A x of the layer's crop."""
        if crop is None:
            return 0.0
        down = layer.routed_down["default"].weight[crop * RANK : (crop + 1) * RANK]
        return layer.routed_scale["default"].weight[crop] * (layer.routed_up["default"].weight[crop] @ (down @ x))

    def __call__(self, x: Tensor, crop: int | None) -> Tensor:
        """``x`` [tokens, D]."""
        normed = [self.norm(token, self.norms[0]) for token in x]
        packed = torch.stack([torch.cat([self.linear(part, token, crop) for part in self.inputs]) for token in normed])
        queries, keys, values = packed.chunk(3, dim=1)
        width = x.shape[1] // self.heads
        mixed = []
        for token in range(len(x)):
            heads = []
            for head in range(self.heads):
                own = slice(head * width, (head + 1) * width)
                scores = torch.stack([queries[token, own] @ keys[other, own] for other in range(len(x))]) / width**0.5
                heads.append(torch.softmax(scores, dim=0) @ values[:, own])
            mixed.append(torch.cat(heads))
        rows = []
        for token, heads in zip(x, mixed, strict=True):
            middle = token + self.linear(self.output, heads, crop)
            hidden = self.act(self.first.weight @ self.norm(middle, self.norms[1]) + self.first.bias)
            base = self.last.base_layer
            rows.append(middle + base.weight @ hidden + base.bias + self.lora(self.last, crop, middle))
        return torch.stack(rows)

    def linear(self, layer: RoutedLayer, x: Tensor, crop: int | None) -> Tensor:
        return layer.base_layer.weight @ x + layer.base_layer.bias + self.lora(layer, crop, x)

    @staticmethod
    def norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm.weight * (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() + norm.bias


@pytest.mark.parametrize("family", list(PLACES))
@torch.no_grad()
def test_the_tower_computes_what_monkeys_computes_a_view_at_a_time(family: str) -> None:
    model, batch = adapted(family), sliced_batch()
    base = model.get_base_model()
    layers = [base.get_submodule(path) for path in find_layers(base, "vision")]
    for layer in layers:
        first, *others = [layer.get_submodule(path) for path in PLACES[family]["in"]]
        for other in others:
            for name in ("routed_down", "routed_scale"):
                getattr(other, name)["default"].weight.copy_(getattr(first, name)["default"].weight)
    blocks = [Block(copy.deepcopy(layer).double(), family) for layer in layers]  # so that what errs is ours alone
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        layer.register_forward_hook(
            lambda _, args, out: seen.append((args[0], out if isinstance(out, Tensor) else out[0]))
        )
    model(**batch, use_cache=False)
    assert len(seen) == len(blocks)
    for block, (into, out) in zip(blocks, seen, strict=True):
        assert len(into) == 2 * (CROPS + 1)
        for view in range(len(into)):
            place = view % (CROPS + 1)
            crop = None if place == CROPS else place
            x, plain = (block(into[view].double(), which).float() for which in (crop, None))
            torch.testing.assert_close(out[view], x, rtol=1e-5, atol=1e-5)
            assert ((x - plain).abs().max() > 0.1) == (crop is not None)


@torch.no_grad()
def test_with_equal_experts_every_crop_is_computed_as_the_others() -> None:
    """The oracle tells crops apart by their experts only, and so do we."""
    model, batch = adapted("llava"), sliced_batch(1)
    batch["pixel_values"] = batch["pixel_values"][:1].expand(CROPS + 1, -1, -1, -1)
    for layer in model.modules():
        if isinstance(layer, RoutedLayer):
            for values in (
                layer.routed_down["default"].weight.view(CROPS, RANK, -1),
                layer.routed_up["default"].weight,
            ):
                values.copy_(values[:1].expand_as(values).clone())
            layer.routed_scale["default"].weight.fill_(0.5)
    base, seen = model.get_base_model(), []
    last = base.get_submodule(find_layers(base, "vision")[-1])
    last.register_forward_hook(lambda _, args, out: seen.append(out if isinstance(out, Tensor) else out[0]))
    model(**batch, use_cache=False)
    torch.testing.assert_close(seen[0][1:CROPS], seen[0][:1].expand(CROPS - 1, -1, -1), rtol=1e-5, atol=1e-5)
    assert (seen[0][CROPS] - seen[0][0]).abs().max() > 0.1
