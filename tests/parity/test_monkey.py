"""Monkey's LoRA of every crop, in a vision tower that is run a view at a time, against ours, which runs all at once.

The formulas are those of Yuliang-Liu/Monkey at 498e1d9: ``Lora_Adapter.forward``, ``VisualAttention.forward`` and
``VisualAttentionBlock.forward`` (monkey_model/visual.py), called for each crop with its index and for the whole
picture without one (``MonkeyModel.forward``, monkey_model/modeling_monkey.py). Its attention has one input layer for q,
k and v, with one LoRA: that is ours beside a fused layer, and with ``tied_qkv`` beside separate ones.
"""

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.models.anatomy import find_layers
from tests.helpers.families import family_model
from tests.helpers.family_inputs import IMAGE, SIZE
from tests.helpers.tiny import perturb
from tests.parity.law import TOLERANCE, assert_same_function, get_trained, measure_error
from tests.parity.plain import TOWERS, apply_linear, look, run_tower, widen

CROPS, RANK = 4, 3
VIEWS = CROPS + 1


def adapted(family: str, **fields: object) -> peft.PeftModel:
    """Monkey's ranks: twice as much beside the MLP as in attention."""
    fields = {"method": "crop_lora", "experts": CROPS, "dropout": 0, **fields}
    attention = {"at": "attn", "rank": RANK, "tied_qkv": True}
    model = lora_mm.attach(family_model(family), [{**attention, **fields}, {"at": "mlp", "rank": 2 * RANK, **fields}])
    perturb(model, size=0.1)
    return model.double().eval()


def sliced_batch(pictures: int = 2) -> dict[str, Tensor]:
    """Pictures of four crops and an overview, in a row each; and a row of text alone."""
    generator = torch.Generator().manual_seed(0)
    long = [[1, *[IMAGE] * 4 * VIEWS, 20 + row, 21, 22] for row in range(pictures)]
    ids = torch.tensor([*long, [0] * (len(long[0]) - 4) + [1, 30, 31, 32]])
    pixels = torch.randn(pictures * VIEWS, 3, SIZE, SIZE, generator=generator)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": pixels}


def apply_lora(down: Tensor, up: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """``Lora_Adapter.forward``, without dropout."""
    return scale * F.linear(F.linear(x, down), up)


def get_lora(layer: RoutedLayer, owner: RoutedLayer, crop: int) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and the scale of a crop; ``owner`` is the layer that holds A and the scale."""
    down = owner.routed_down["default"].weight.unflatten(0, (CROPS, -1))
    return down[crop], layer.routed_up["default"].weight[crop], owner.routed_scale["default"].weight[crop]


def look_at(layers: list[nn.Module], x: Tensor, crop: int | None, family: str) -> Tensor:
    """The tower's states for one view, with the LoRAs of one crop or, for the overview, none."""
    tower = TOWERS[family]
    for layer in layers:
        inputs = [layer.get_submodule(path) for path in tower.inputs]
        owner = next(part for part in inputs if "default" in part.routed_down)

        def linear(module: RoutedLayer, x: Tensor, inputs: list[RoutedLayer] = inputs, owner=owner) -> Tensor:
            plain = apply_linear(module, x)
            if crop is None:
                return plain
            return plain + apply_lora(*get_lora(module, owner if module in inputs else module, crop), x)

        def beside(mlp: nn.Module, x: Tensor) -> Tensor | float:
            return 0.0 if crop is None else apply_lora(*get_lora(mlp.fc2, mlp.fc2, crop), x)

        x = look(layer, x, tower, linear=linear, beside=beside)
    return x


@pytest.mark.parametrize("family", list(TOWERS))
def test_the_tower_computes_monkeys_a_view_at_a_time(family: str) -> None:
    model = adapted(family)
    layers, entered, ours = run_tower(model, sliced_batch())
    crops = [*range(CROPS), None] * 2
    theirs = torch.stack([look_at(layers, x, crop, family) for x, crop in zip(entered, crops, strict=True)])
    assert_same_function(ours, theirs, get_trained(model))
    for x, crop, out in zip(entered, crops, ours, strict=True):
        assert (measure_error(out, look_at(layers, x, None, family)) > 0.1) == (crop is not None)


@torch.no_grad()
def test_with_equal_experts_every_crop_is_computed_as_the_others() -> None:
    """The formula tells crops apart by their experts only, and so do we."""
    model, batch = adapted("llava"), sliced_batch(1)
    batch["pixel_values"] = batch["pixel_values"][:1].expand(VIEWS, -1, -1, -1)
    for name, parameter in get_trained(model).items():
        experts = parameter.unflatten(0, (CROPS, -1)) if "down" in name else parameter
        experts.copy_(experts[:1].expand_as(experts).clone())
    _, _, out = run_tower(model, batch)
    assert measure_error(out[1:CROPS], out[:1].expand(CROPS - 1, -1, -1)) <= TOLERANCE
    assert measure_error(out[CROPS], out[0]) > 0.1


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for name, parameter in get_trained(model).items() if "scale" not in name)


def test_departure_separate_q_k_and_v_have_a_fifth_more_parameters_by_default() -> None:
    """Three down-projections and not one, at Monkey's ranks; beside a fused layer there is no difference."""
    assert count(adapted("llava", tied_qkv=False)) == pytest.approx(1.2 * count(adapted("llava")))
    assert count(adapted("blip-2", tied_qkv=False)) == count(adapted("blip-2"))


@pytest.mark.parametrize("drops", ["input", "hidden"])
def test_dropout_falls_on_what_the_placement_says(drops: str) -> None:
    """Monkey drops the LoRA's input: one draw for each of its entries. By default ours drops hidden units, r for a
    token."""
    model = adapted("llava", dropout=0.5, drops=drops).train()
    path = find_layers(model.get_base_model(), "vision")[0] + ".self_attn.out_proj"
    layer, seen = model.get_base_model().get_submodule(path), []
    layer.register_forward_pre_hook(lambda *_: torch.manual_seed(11) and None)
    layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    model(**widen(sliced_batch(1)), use_cache=False)
    x, out = seen[0]
    torch.manual_seed(11)
    width = x.shape[-1] if drops == "input" else RANK
    keep = F.dropout(torch.ones(*x.shape[:-1], width, dtype=x.dtype), 0.5)
    for crop in range(CROPS):
        down, up, scale = get_lora(layer, layer, crop)
        if drops == "input":
            update = scale * F.linear(F.linear(x[crop] * keep[crop], down), up)
        else:
            update = scale * F.linear(F.linear(x[crop], down) * keep[crop], up)
        assert measure_error(out[crop], apply_linear(layer, x[crop]) + update) <= TOLERANCE
        assert measure_error(out[crop], apply_linear(layer, x[crop]) + apply_lora(down, up, scale, x[crop])) > 0.01
