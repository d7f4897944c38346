"""Maps of routing: what the routers say, and where tokens went, by layer and kind of sample."""

from typing import Any

import pytest
import torch

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.routing_map import measure_routing
from lora_mm.adapters.token_router import find_token_routers
from tests.helpers.tiny import perturb, tiny_batch, tiny_model


def adapted(*adapters: Any) -> Any:
    model = lora_mm.attach(tiny_model(), list(adapters))
    perturb(model)
    return model.eval()


def asked() -> dict[str, list[dict[str, torch.Tensor]]]:
    """Rows without a picture, and rows with one."""
    batch = tiny_batch()
    text = {name: batch[name][1:] for name in ("input_ids", "attention_mask")}
    image = {
        **{name: batch[name][:1] for name in ("input_ids", "attention_mask")},
        "pixel_values": batch["pixel_values"],
    }
    return {"text": [text, text], "image": [image]}


def test_mma_is_read_off_its_routers() -> None:
    model = adapted({"method": "mma", "at": "block"}, {"method": "mma", "part": "vision"})
    maps = {one.title: one for one in measure_routing(model, {})}
    assert list(maps) == [
        "mma on language at block, attn norm",
        "mma on language at block, ffn norm",
        "mma on vision at attn",
    ]
    first = maps["mma on language at block, attn norm"]
    assert (first.modalities, first.layers, first.meaning) == (("text", "image"), (0, 1), "weight of each expert")
    layers = [module for module in model.modules() if isinstance(module, RoutedLayer)]
    table = next(layer for layer in layers if layer.placements["default"].part == "language").compute_routing_table(
        "default"
    )
    torch.testing.assert_close(torch.tensor(first.weights[0]), table.detach())
    assert maps["mma on vision at attn"].modalities == ("image",)
    for one in maps.values():
        for layer in one.weights:
            assert all(sum(kind) == pytest.approx(1) for kind in layer)


def test_layers_keep_their_own_numbers() -> None:
    (one,) = measure_routing(adapted({"method": "mma", "layers": [1]}), {})
    assert one.layers == (1,)


def test_tokens_of_a_mixture_are_counted_by_kind_of_sample() -> None:
    model = adapted({"method": "moe_lora", "experts": 4, "top_k": 2})
    (one,) = measure_routing(model, asked())
    assert one.title == "moe_lora on language at ffn"
    assert (one.modalities, one.layers) == (("text", "image"), (0, 1))
    assert one.meaning == "share of tokens sent to each expert"
    for layer in one.weights:
        for kind in layer:
            assert len(kind) == 4
            assert sum(kind) == pytest.approx(1)
            assert max(kind) <= 0.5 + 1e-9, "each token goes to two of four"
    assert one.weights[0][0] != one.weights[0][1]


def test_looking_changes_no_count_that_training_reads() -> None:
    model = adapted({"method": "moe_lora"})
    with torch.no_grad():
        model(**tiny_batch())
    before = [mixture.usage.clone() for mixture in find_token_routers(model)]
    assert before[0].sum() > 0
    measure_routing(model, asked())
    assert all(torch.equal(old, mixture.usage) for old, mixture in zip(before, find_token_routers(model), strict=True))


@pytest.mark.parametrize("method", ["lora", "visual_expert"])
def test_what_routes_by_nothing_that_differs_has_no_map(method: str) -> None:
    assert measure_routing(adapted(method), asked()) == []
