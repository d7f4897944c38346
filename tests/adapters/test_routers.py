"""Routers by crop, by visual token and by token, on a real, tiny LLaVA: each against what its paper says of it."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.crops import compute_crop_index, count_tiles
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.token_router import TokenRouter, find_token_routers
from lora_mm.adapters.weights import AdapterWeight
from lora_mm.errors import InputError, LoraMMError
from tests.helpers.families import family_batch, family_model
from tests.helpers.family_inputs import SIZE
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

METHODS: dict[str, list[Any]] = {
    "crop": [{"method": "crop_lora", "at": "block", "dropout": 0}],
    "visual": [{"method": "visual_expert", "at": "all", "dropout": 0}],
    "tokens": ["moe_lora"],
    "tokens by weight": [{"method": "moe_lora", "combine": "weight", "experts": 3}],
    "all": [
        "mma",
        {"method": "crop_lora", "at": "block", "dropout": 0, "tied_qkv": True},
        {"method": "moe_lora", "layers": [1]},
        {"method": "visual_expert", "at": "attn", "dropout": 0, "marks": True},
        {"method": "mma", "part": "vision", "dropout": 0},
    ],
}
every_method = pytest.mark.parametrize("name", list(METHODS))
CROPS = 4


def adapted(name: str, *, noise: int | None = 1) -> peft.PeftModel:
    torch.manual_seed(100)
    model = lora_mm.attach(tiny_model(), METHODS[name], train=["connector"] if name == "all" else []).eval()
    if noise is not None:
        perturb(model, noise)
    return model


def sliced_batch(seed: int = 0) -> dict[str, Tensor]:
    """Two left-padded rows: a picture of four crops and an overview, 4 placeholders each; and text alone."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(10, 400, (2, 6), generator=generator)
    picture = [1] + [3] * 4 * (CROPS + 1)
    ids = torch.cat([torch.tensor([picture, [0] * (len(picture) - 1) + [1]]), text], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": torch.randn(CROPS + 1, 3, 16, 16, generator=generator),
    }


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch, use_cache=False).logits


def layers(model: nn.Module, name: str = "") -> dict[str, RoutedLayer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, RoutedLayer) and name in path}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- what holds for every method ------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_starts_as_the_base_bitwise(name: str, dtype: torch.dtype) -> None:
    model = lora_mm.attach(tiny_model().to(dtype), METHODS[name]).eval()
    batch = sliced_batch()
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    before = logits(tiny_model().to(dtype), batch)
    assert torch.equal(logits(model, batch), before)
    perturb(model)
    assert (logits(model, batch) - before).abs().max() > 0.01


@every_method
def test_gradients_reach_every_trained_tensor(name: str) -> None:
    model = adapted(name)
    batch = sliced_batch()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert [path for path, p in trained(model).items() if p.grad is None or not p.grad.any()] == []


@every_method
def test_saved_and_loaded_bitwise(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    assert torch.equal(logits(again, sliced_batch()), logits(model, sliced_batch()))


@every_method
def test_rows_of_a_batch_do_not_meet(name: str) -> None:
    model, batch = adapted(name), sliced_batch()
    real = batch["attention_mask"][1].bool()
    single = {key: batch[key][1:, real] for key in ("input_ids", "attention_mask")}
    assert torch.allclose(logits(model, single)[0], logits(model, batch)[1, real], atol=1e-4)


@every_method
def test_cached_generation_equals_the_full_forward(name: str) -> None:
    model, batch = adapted(name), sliced_batch()
    cached = model.generate(**batch, max_new_tokens=4, do_sample=False, pad_token_id=0)
    whole = model.generate(**batch, max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(cached, whole)


@every_method
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(name: str, reentrant: bool) -> None:
    batch, gradients = sliced_batch(), []
    for checkpointing in (False, True):
        model = adapted(name).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        gradients.append({path: p.grad for path, p in trained(model).items()})
    assert all(gradients[0][path] is not None for path in gradients[0])
    for path, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][path], atol=1e-6), path


@every_method
def test_disabled_it_is_the_base(name: str) -> None:
    model = adapted(name)
    with model.disable_adapter():
        assert torch.equal(logits(model, sliced_batch()), logits(tiny_model(), sliced_batch()))


@every_method
def test_a_copy_is_on_its_own(name: str) -> None:
    model = adapted(name)
    before = logits(model, sliced_batch())
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, sliced_batch()), before)
    perturb(twin, 7)
    assert not torch.equal(logits(twin, sliced_batch()), before)
    assert torch.equal(logits(model, sliced_batch()), before)


# --- crops -----------------------------------------------------------------------------------------------------------


def tower(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What the tower makes of each of the batch's rows of pixels, in a forward of the whole model."""
    found: list[Tensor] = []
    vision = model.get_base_model().model.vision_tower
    hook = vision.register_forward_hook(lambda _, args, out: found.append(out.hidden_states[-2].detach()))
    logits(model, batch)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("expert", range(CROPS))
def test_an_expert_moves_its_own_crop_only(expert: int) -> None:
    model, batch = adapted("crop"), sliced_batch()
    before = tower(model, batch)
    with torch.no_grad():
        for layer in layers(model).values():
            layer.routed_up["default"].weight[expert].mul_(2)
    moved = (tower(model, batch) - before).flatten(1).abs().amax(1) > 0
    assert moved.tolist() == [row == expert for row in range(CROPS + 1)]


def test_the_overview_and_pictures_in_one_piece_have_no_expert() -> None:
    model, batch = adapted("crop"), sliced_batch()
    assert torch.equal(tower(model, batch)[-1], tower(lora_mm.attach(tiny_model(), METHODS["crop"]), batch)[-1])
    assert torch.equal(logits(model, tiny_batch()), logits(tiny_model(), tiny_batch()))


@pytest.mark.parametrize("views", [5, 3])
def test_views_of_the_slicer_are_told_by_runs_of_placeholders(views: int) -> None:
    ids = torch.tensor([[1, *[3] * 2 * views, 8, *[3] * 2 * views], [1, *[3] * 4 * views, 9]])
    index = compute_crop_index("none", ids, [3], 4 * views, views=views)
    assert index.tolist() == [*range(views - 1), -1] * 4
    assert compute_crop_index("none", ids[:, :3], [3], 2, views=views).tolist() == [-1, -1]


def test_crops_before_their_overview() -> None:
    ids = torch.tensor([[1, *[3] * 12, 8, 3, 3], [0, 0, 0, 0, 1, *[3] * 10, 9]])
    assert compute_crop_index("overview_last", ids, [3], 12).tolist() == [
        0,
        1,
        2,
        3,
        4,
        -1,
        -1,
        0,
        1,
        2,
        3,
        -1,
    ]


def test_crops_in_runs_of_their_own() -> None:
    tile, whole = [5, 3, 3, 6], [7, 3, 3, 6]
    ids = torch.tensor([[*tile, *tile, *whole, *whole], [0] * 4 + [*tile, *tile, *whole]])
    assert compute_crop_index("overview_last", ids, [3], 7).tolist() == [0, 1, -1, -1, 0, 1, -1]


def test_quarters_in_a_chain_of_runs() -> None:
    one = [3, 3, 6]
    ids = torch.tensor([[6, *one * 10, 8], [0] * 21 + [1, 6, *one, 8, 6, *one, 9]])
    assert compute_crop_index("quarters", ids, [3], 12).tolist() == [0, 1, 2, 3, -1] * 2 + [-1, -1]


def test_crops_after_their_overview() -> None:
    pixels = torch.ones(3, 4, 3, 2, 2)
    pixels[1, 2:] = 0
    pixels[2, 1:] = 0
    sizes = count_tiles(pixels)
    assert compute_crop_index("overview_first", torch.tensor([[3]]), [3], 7, sizes=sizes).tolist() == [
        -1,
        0,
        1,
        2,
        -1,
        0,
        -1,
    ]


@pytest.mark.parametrize(
    ("width", "places"), [(2, [0, 1, 2, 3]), (1, [0, 2, 4, 6]), (4, [0, 1, 2**30, 2**30]), (0, [0, 1, 2, 3])]
)
def test_a_crop_is_a_place_whatever_the_grid_of_its_picture(width: int, places: list[int]) -> None:
    """Of four crops in a row, in a column, in 2 × 2, and in a grid that nothing shows; among experts of two columns."""
    ids, widths = torch.tensor([[3]]), [width]
    index = compute_crop_index("overview_first", ids, [3], 5, sizes=[5], widths=widths, columns=2)
    assert index.tolist() == [-1, *places]


@pytest.mark.parametrize(("grid", "places"), [((1, 2), [0, 1]), ((2, 1), [0, 2]), ((2, 2), [0, 1, 2, 3])])
def test_idefics_rows_of_crops_end_with_a_line_break(grid: tuple[int, int], places: list[int]) -> None:
    mark, line, crop, whole = 5, 6, 10, 7
    row = [token for _ in range(grid[1]) for token in (mark, crop, 3, 3)]
    ids = torch.tensor([[1, *([*row, line] * grid[0]), line, mark, whole, 3, 3, mark, 40]])
    found = compute_crop_index("overview_last", ids, [3], grid[0] * grid[1] + 1, columns=2)
    assert found.tolist() == [*places, -1]


def test_llava_next_tiles_of_a_high_and_of_a_wide_picture_are_at_other_places() -> None:
    model = lora_mm.attach(family_model("llava_next"), [{"method": "crop_lora", "experts": 4, "dropout": 0}])
    batch = family_batch("llava_next", (1,))
    signal, found = model.base_model.signal, []
    for size in ([SIZE, 2 * SIZE], [2 * SIZE, SIZE]):
        signal.announce_tower_input(batch["input_ids"], batch["pixel_values"], torch.tensor([size]))
        found.append(signal.get_crop_index(3).tolist())
    assert found == [[-1, 0, 1], [-1, 0, 2]]


def test_crops_beyond_the_trained_ones_stay_as_the_base_makes_them() -> None:
    batch = sliced_batch()
    model = lora_mm.attach(tiny_model(), [{"method": "crop_lora", "experts": 2, "dropout": 0}]).eval()
    perturb(model)
    model.base_model.signal.crops = "overview_last"  # as in families that tile by themselves, into as many as they like
    with pytest.warns(UserWarning, match="crops outside the 2 that have an expert; they get no adapter"):
        after = tower(model, batch)
    changed = (after - tower(lora_mm.attach(tiny_model(), METHODS["crop"]), batch)).flatten(1).abs()
    assert (changed.amax(1) > 0).tolist() == [True, True, False, False, False]


def test_pictures_that_no_token_stands_for_are_overviews() -> None:
    assert compute_crop_index("none", torch.tensor([[1, 5, 6]]), [3], 2, views=5).tolist() == [-1, -1]


def test_tied_q_k_and_v_have_one_down_projection_and_one_scale() -> None:
    model = lora_mm.attach(tiny_model(), [{"method": "crop_lora", "at": "block", "tied_qkv": True}])
    names = [path.split("layers.1.self_attn.")[1] for path in trained(model) if "layers.1.self_attn" in path]
    for container, count in (("routed_down", 2), ("routed_scale", 2), ("routed_up", 4)):
        assert sum(container in name for name in names) == count, "of the three, and of the output's"


def test_a_tied_adapter_is_deleted_alone() -> None:
    model = adapted("all")
    before = logits(model, sliced_batch())
    model.add_adapter("other", model.peft_config["default"])
    model.delete_adapter("other")
    assert torch.equal(logits(model, sliced_batch()), before)


# --- visual tokens ----------------------------------------------------------------------------------------------------


def test_without_a_picture_the_visual_expert_is_the_base_bitwise() -> None:
    batch = sliced_batch()
    text = {key: batch[key][1:] for key in ("input_ids", "attention_mask")}
    assert torch.equal(logits(adapted("visual"), text), logits(tiny_model(), text))


def test_the_visual_expert_works_at_placeholders_only() -> None:
    model, batch = adapted("visual"), sliced_batch()
    seen: list[tuple[Tensor, Tensor]] = []
    layer = layers(model, "layers.0.self_attn.q_proj")
    (path,) = layer
    hook = layer[path].register_forward_hook(lambda m, args, out: seen.append((out, m.base_layer(args[0]))))
    logits(model, batch)
    hook.remove()
    out, base = seen[0]
    assert torch.equal((out != base).any(-1), batch["input_ids"] == 3)


def test_with_marks_the_token_before_each_run_of_placeholders_is_visual() -> None:
    model = lora_mm.attach(tiny_model(), [{"method": "visual_expert", "marks": True}])
    signal = model.base_model.signal
    ids = torch.tensor([[3, 3, 8, 3, 3, 9], [1, 3, 3, 3, 3, 9]])
    model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.zeros(2, 3, 16, 16))
    assert torch.equal(signal.get_visual(2, 6, marks=True), ids != 9)
    assert torch.equal(signal.get_visual(2, 6), ids == 3)


# --- mixture of experts -----------------------------------------------------------------------------------------------


def dense(model: nn.Module, path: str, x: Tensor, experts: int, top_k: int) -> Tensor:
    """Every token through every expert's feed-forward, mixed by the probabilities of its likeliest ``top_k``."""
    mlp = model.get_submodule(path)

    def linear(layer: RoutedLayer, value: Tensor, expert: int) -> Tensor:
        down = layer.routed_down["default"].weight.view(experts, -1, value.shape[-1])[expert]
        return layer.base_layer(value) + value @ down.T @ layer.routed_up["default"].weight[expert].T

    weights = (x @ mlp.gate_proj.routed_router["default"].weight.T).softmax(-1)
    least = weights.sort(dim=-1, descending=True).values[..., top_k - 1 : top_k]
    weights = torch.where(weights >= least, weights, 0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    results = [
        linear(mlp.down_proj, F.silu(linear(mlp.gate_proj, x, e)) * linear(mlp.up_proj, x, e), e)
        for e in range(experts)
    ]
    return sum(weights[..., e : e + 1] * results[e] for e in range(experts))


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_token_goes_to_its_likeliest_experts_and_none_is_dropped(top_k: int, collapsed: bool) -> None:
    """With ``top_k`` of all, the dense mixture; collapsed, all tokens at one expert, which serves them all."""
    model = lora_mm.attach(tiny_model(), [{"method": "moe_lora", "experts": 3, "top_k": top_k}]).eval()
    perturb(model)
    path = "base_model.model.model.language_model.layers.1.mlp"
    if collapsed:  # a row of the router that is fitted to the tokens, so that it is every token's first choice
        before: list[Tensor] = []
        hook = model.get_submodule(path).register_forward_pre_hook(lambda m, args: before.append(args[0]))
        logits(model, sliced_batch())
        hook.remove()
        router = model.get_submodule(path).gate_proj.routed_router["default"].weight
        with torch.no_grad():
            flat = before[0].flatten(0, 1)
            router[0] = torch.linalg.lstsq(flat, torch.full((len(flat), 1), 30.0)).solution[:, 0]
            router[1:] *= 0.01
        model.get_submodule(path).gate_proj.token_routers["default"].take_usage()
    seen: list[tuple[Tensor, Tensor]] = []
    hook = model.get_submodule(path).register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    logits(model, sliced_batch())
    hook.remove()
    x, out = seen[0]
    with torch.no_grad():
        assert torch.allclose(out, dense(model, path, x, 3, top_k), atol=1e-4)
    use = model.get_submodule(path).gate_proj.token_routers["default"].take_usage()
    real = sliced_batch()["attention_mask"].sum()
    assert use.sum() == top_k * real
    assert (use[0] == real) or not collapsed


def test_combined_by_weight_a_token_passes_once_through_its_experts_mean_update() -> None:
    fields = {"method": "moe_lora", "experts": 3, "top_k": 2, "combine": "weight", "rank": 2}
    model = lora_mm.attach(tiny_model(), [fields]).eval()
    perturb(model)
    seen: list[tuple[Tensor, Tensor]] = []
    mlp = model.get_submodule("base_model.model.model.language_model.layers.0.mlp")
    mlp.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    logits(model, sliced_batch())
    x, out = (value.flatten(0, 1) for value in seen[0])
    probabilities = (x @ mlp.gate_proj.routed_router["default"].weight.T).softmax(-1)

    def linear(layer: RoutedLayer, value: Tensor, weights: Tensor) -> Tensor:
        downs, ups = layer.routed_down["default"].weight.view(3, 2, -1), layer.routed_up["default"].weight
        mixed = sum(weight * ups[e] @ downs[e] for e, weight in enumerate(weights))
        return (layer.base_layer.weight + mixed) @ value

    for token, shares, given in zip(x, probabilities, out, strict=True):
        weights = torch.where(shares >= shares.sort().values[1], shares, 0)
        weights = weights / weights.sum()
        hidden = F.silu(linear(mlp.gate_proj, token, weights)) * linear(mlp.up_proj, token, weights)
        assert torch.allclose(given, linear(mlp.down_proj, hidden, weights), atol=1e-4)


def test_only_chosen_layers_have_experts_and_the_balance_weighs_a_hundredth() -> None:
    model = lora_mm.attach(tiny_model(), [{"method": "moe_lora", "layers": [1]}])
    assert {path.split(".layers.")[1][0] for path in trained(model)} == {"1"}
    (one,) = find_token_routers(model)
    assert one.balance_weight == 0.01


def test_one_expert_is_a_lora_on_the_feed_forward() -> None:
    model = lora_mm.attach(tiny_model(), [{"method": "moe_lora", "experts": 1, "top_k": 1}]).eval()
    perturb(model)
    lora = lora_mm.attach(tiny_model(), [{"method": "lora", "at": "ffn", "scale": 1}]).eval()
    with torch.no_grad():
        for path, layer in layers(model).items():
            plain = lora.get_submodule(path)
            plain.lora_A["default"].weight.copy_(layer.routed_down["default"].weight)
            plain.lora_B["default"].weight.copy_(layer.routed_up["default"].weight[0])
    assert torch.allclose(logits(model, sliced_batch()), logits(lora, sliced_batch()), atol=1e-4)


def mixture(router: Tensor, *, top_k: int = 1, weight: float = 0.01) -> TokenRouter:
    return TokenRouter(AdapterWeight(router), top_k, weight)


def test_the_balance_is_one_when_uniform_and_the_number_of_experts_when_collapsed() -> None:
    tokens = torch.eye(4).repeat(8, 1).unsqueeze(0)
    uniform, collapsed = mixture(1e-3 * torch.eye(4)), mixture(torch.tensor([[50.0], [0], [0], [0]]).expand(4, 4))
    for one in (uniform, collapsed):
        one.route(tokens, None, training=False)
    assert uniform.balance == pytest.approx(1, abs=1e-4)
    assert collapsed.balance == pytest.approx(4, abs=1e-4)
    assert uniform.take_usage().tolist() == [8, 8, 8, 8]
    assert uniform.take_usage().tolist() == [0, 0, 0, 0]
    assert collapsed.take_usage().tolist() == [32, 0, 0, 0]


def test_padding_counts_for_nothing_in_the_balance() -> None:
    tokens = torch.eye(4).unsqueeze(0)
    one = mixture(torch.eye(4))
    one.route(tokens, torch.tensor([[True, True, False, False]]), training=False)
    assert one.take_usage().tolist() == [1, 1, 0, 0]


def test_the_balance_reaches_the_router_with_its_weight() -> None:
    tokens = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0))
    router = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    one = mixture(router.clone(), weight=0.5)
    weights, _ = one.route(tokens, None, training=True)
    (0 * weights.sum()).backward()
    parameter = nn.Parameter(router.clone())
    probabilities = (tokens[0] @ parameter.T).softmax(-1)
    first = F.one_hot(probabilities.argmax(-1), 4).float().mean(0)
    (0.5 * 4 * (first * probabilities.mean(0)).sum()).backward()
    assert torch.allclose(one.router.weight.grad, parameter.grad, atol=1e-6)


def test_a_router_reads_its_input_before_dropout() -> None:
    fields = {"method": "moe_lora", "layers": [0], "dropout": 0.5, "drops": "input"}
    model, usages, results = lora_mm.attach(tiny_model(), [fields]), [], []
    perturb(model)
    (router,) = find_token_routers(model)
    for training in (False, True):
        results.append(logits(model.train(training), sliced_batch()))
        usages.append(router.take_usage())
    assert torch.equal(*usages)
    assert not torch.equal(*results)


def test_layers_of_one_feed_forward_share_one_router() -> None:
    model = adapted("tokens")
    assert sum("routed_router" in path for path in trained(model)) == 2
    found = layers(model, "layers.1.mlp")
    assert len({id(layer.token_routers["default"]) for layer in found.values()}) == 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_two_methods_on_one_module_are_refused() -> None:
    with pytest.raises(InputError, match=r"Two adapters on one module, .*mlp.gate_proj"):
        lora_mm.attach(tiny_model(), ["moe_lora", {"method": "visual_expert", "at": "all"}])


def test_a_tower_called_beside_its_model_says_so() -> None:
    model, batch = adapted("crop"), sliced_batch()
    logits(model, batch)
    with pytest.raises(LoraMMError, match="called alone"):
        model.get_base_model().model.vision_tower(batch["pixel_values"][:3])
