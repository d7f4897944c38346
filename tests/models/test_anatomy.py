"""Every row of the anatomy against a model built from its configuration."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralVisionConfig,
)

from lora_mm.errors import InputError
from lora_mm.models.anatomy import (
    Stack,
    find_layers,
    find_part,
    find_part_modules,
    find_role_modules,
    get_anatomy,
    get_placeholder_ids,
    list_modalities,
)
from lora_mm.models.families import FAMILIES, PARTS
from tests.helpers.families import FAMILY, family_batch, family_model
from tests.helpers.family_inputs import IMAGE, VIDEO, VIDEO_START, VOCABULARY
from tests.helpers.tiny import tiny_config, tiny_model

every_family = pytest.mark.parametrize("family", list(FAMILIES))
ONLY_IMAGES = {"image": IMAGE}
IDS = {
    "llava_onevision": {"image": IMAGE, "video": VIDEO},
    "qwen2_vl": {"image": IMAGE, "video": VIDEO},
    "qwen2_5_vl": {"image": IMAGE, "video": VIDEO},
    "qwen3_vl": {"image": IMAGE, "video": VIDEO},
    **{family: {"image": IMAGE, "video": VIDEO} for family in ("qwen3_5", "qwen3_5_moe", "qwen3_vl_moe")},
    **{family: {"image": IMAGE, "video": VIDEO_START} for family in ("glm4v", "glm46v", "glm_ocr")},
    "idefics": {"image": VOCABULARY + 1},
}
UNADAPTED = ("per_layer_input_gate", "per_layer_projection")
"""Linear layers that are neither attention's nor the feed-forward's: Gemma 4's, for an embedding in each layer."""

UNREAD = {"llava": 1, "llava_next": 1}
"""Layers of the tower that are never read: ``vision_feature_layer`` is -2 by default, in OneVision and InternVL -1."""


def llava(vision_feature_layer: int | list[int], layers: int = 5) -> nn.Module:
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=1, image_size=4, patch_size=2
    )
    text = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16)
    config = LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict())
    config.vision_feature_layer = vision_feature_layer
    return LlavaForConditionalGeneration(config)


def stacks(family: str, model: nn.Module) -> dict[str, Stack]:
    row = get_anatomy(model)
    return {"language": row.language, **({"vision": row.vision} if row.vision else {})}


def test_every_family_has_a_model_to_be_checked_on() -> None:
    assert set(FAMILY) == set(FAMILIES)
    assert all(FAMILY[name].config().model_type == name for name in FAMILY)


@every_family
def test_every_path_exists(family: str) -> None:
    model = family_model(family)
    row = get_anatomy(model)
    assert row.family == FAMILIES[family]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for prefixes in row.parts.values():
        for path in prefixes:  # a module, or a bare parameter; the head may be tied to the embedding
            assert any(name == path or name.startswith(f"{path}.") for name in names), path
    for part, stack in stacks(family, model).items():
        lists = {path.rpartition(".")[0] for path in stack.layers}
        total = sum(len(model.get_submodule(path)) for path in lists)
        assert len(find_layers(model, part)) == total - (UNREAD.get(family, 0) if part == "vision" else 0)
        for role in set(stack.known_roles) - {"mlp", "router", "experts"}:
            for path in find_role_modules(model, part, role):
                module = model.get_submodule(path)
                assert isinstance(module, nn.Linear) is not role.endswith("norm"), path
                assert not list(module.children()), "adapters sit on leaves"


@every_family
def test_every_linear_layer_of_a_stack_has_a_role(family: str) -> None:
    model = family_model(family)
    for part, stack in stacks(family, model).items():
        named = {path for role in stack.known_roles for path in find_role_modules(model, part, role)}
        for layer in find_layers(model, part):
            for name, module in model.get_submodule(layer).named_modules():
                adaptable = isinstance(module, nn.Linear) and name not in UNADAPTED
                assert not adaptable or f"{layer}.{name}" in named, name


@every_family
def test_every_parameter_is_in_one_part(family: str) -> None:
    model = family_model(family)
    parts = {name: find_part(model, name) for name, _ in model.named_parameters(remove_duplicate=False)}
    assert [name for name, part in parts.items() if part == "other"] == []
    assert set(parts.values()) == set(get_anatomy(model).parts) <= set(PARTS)
    assert find_part(model, "elsewhere.weight") == "other"
    assert find_part(model, "model.vision_tower_of_another") == "other"
    for part in get_anatomy(model).parts:
        modules = find_part_modules(model, part)
        assert modules
        assert not any(isinstance(model.get_submodule(path), nn.ModuleList) for path in modules)
        assert {find_part(model, f"{path}.weight") for path in modules} == {part}


@every_family
def test_layers_that_are_read_get_a_gradient_and_others_none(family: str) -> None:
    model = family_model(family)
    batch = family_batch(family)
    for stack in stacks(family, model).values():
        lists = dict.fromkeys(path.rpartition(".")[0] for path in stack.layers)
        every = [f"{path}.{index}" for path in lists for index in range(len(model.get_submodule(path)))]
        model.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        model(**batch, use_cache=False).logits.square().mean().backward()
        touched = [
            layer
            for layer in every
            if any(p.grad is not None and p.grad.any() for p in model.get_submodule(layer).parameters())
        ]
        assert touched == list(stack.layers)


@every_family
def test_placeholders_are_ids_that_stand_in_the_prompt(family: str) -> None:
    model = family_model(family)
    ids = get_placeholder_ids(model)
    assert ids == IDS.get(family, ONLY_IMAGES)
    assert list_modalities(model) == ("text", *ids)
    tokens = family_batch(family)["input_ids"]
    assert (tokens == ids["image"]).any(dim=1).tolist() == [True, False]


@every_family
def test_tokens_are_visual_where_the_towers_features_take_their_place(family: str) -> None:
    model = family_model(family)
    batch = family_batch(family, (1,))
    seen: list[torch.Tensor] = []
    first = model.get_submodule(find_layers(model, "language")[0])
    first.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"])[0]), with_kwargs=True
    )
    with torch.no_grad():
        for sign in (1, -1):
            model(**{**batch, "pixel_values": sign * batch["pixel_values"]}, use_cache=False)
    if family == "idefics":  # its cross-attention stands before the first layer
        assert not FAMILIES[family].visual_tokens
        return
    changed = (seen[0] != seen[1]).any(dim=-1)
    visual = batch["input_ids"][0] == get_placeholder_ids(model)["image"]
    newlines = (~changed & visual).sum().item()  # LLaVA-NeXT's and OneVision's stand on placeholders as well
    assert torch.equal(changed, visual & changed)
    assert bool(changed.any()) is FAMILIES[family].visual_tokens
    assert newlines == {"llava_next": 2, "llava_onevision": 2, "mllama": 1}.get(family, 0)


@every_family
def test_rows_of_the_tower_are_pictures_or_crops_unless_packed(family: str) -> None:
    row, model = FAMILIES[family], family_model(family)
    assert (get_anatomy(model).vision is not None) is row.tower
    if not row.tower:
        assert (row.crops, row.packed) == ("none", False)
        return
    rows: list[tuple[int, ...]] = []
    norm = model.get_submodule(find_role_modules(model, "vision", "attn_norm")[0])
    norm.register_forward_pre_hook(lambda _, args: rows.append(tuple(args[0].shape[:-1])))
    with torch.no_grad():
        model(**family_batch(family, (1,)), use_cache=False)
        model(**family_batch(family, (2,)), use_cache=False)
    tiles = 3 if row.crops == "overview_first" and "llava" in family else 1
    several = 1 if family == "llava_onevision" else tiles  # its pictures of several are not tiled
    if row.packed and family != "mllama":
        assert all(shape[:-1] in ((), (1,)) for shape in rows)  # patches of all pictures in one row
        assert rows[1][-1] == 2 * rows[0][-1]
    else:
        assert [shape[0] for shape in rows] == [tiles, 2 * several]


SIDE = {"height": 32, "width": 32}
PINPOINTS = [[32, 64], [64, 32]]
SLICERS: dict[str, Callable[[], Any]] = {
    "llava_next": lambda: hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=SIDE, image_grid_pinpoints=PINPOINTS
    ),
    "llava_onevision": lambda: hf.LlavaOnevisionImageProcessorPil(size=SIDE, image_grid_pinpoints=PINPOINTS),
    **dict.fromkeys(
        ("internvl", "aya_vision", "qianfan_ocr"),
        lambda: hf.GotOcr2ImageProcessorPil(size=SIDE, crop_to_patches=True, max_patches=4),
    ),
    "idefics2": lambda: hf.Idefics2ImageProcessorPil(
        size={"shortest_edge": 32, "longest_edge": 64}, do_image_splitting=True
    ),
    "idefics3": lambda: hf.Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    ),
    "smolvlm": lambda: hf.SmolVLMImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    ),
}


def test_every_family_that_slices_has_a_slicer_to_be_checked_on() -> None:
    assert set(SLICERS) == {name for name, row in FAMILIES.items() if row.crops not in ("none", "unknown")}


@pytest.mark.parametrize("family", list(SLICERS))
def test_the_overview_stands_where_the_row_says(family: str) -> None:
    """Of a picture that is black on the left and white on the right, only the overview shows both."""
    picture = Image.new("RGB", (64, 32), "black")
    picture.paste("white", (32, 0, 64, 32))
    pixels = SLICERS[family]()(images=[[picture]], return_tensors="pt")["pixel_values"].flatten(0, -4)
    assert len(pixels) > 2
    first = FAMILIES[family].crops == "overview_first"
    assert pixels.flatten(1).std(dim=1).argmax() == (0 if first else len(pixels) - 1)


@pytest.mark.parametrize(
    ("chosen", "depth"), [(-1, 5), (-2, 4), (-5, 1), (3, 3), ([-2], 4), ([1, -3], 3), ([-4, 4, 2], 4)]
)
def test_only_tower_layers_that_are_read_are_listed(chosen: int | list[int], depth: int) -> None:
    model = llava(chosen)
    paths = find_role_modules(model, "vision", "attn_norm")
    assert paths == [f"model.vision_tower.encoder.layers.{index}.layer_norm1" for index in range(depth)]


def test_all_language_layers_are_listed() -> None:
    paths = find_role_modules(tiny_model(), "language", "down")
    assert paths == [f"model.language_model.layers.{index}.mlp.down_proj" for index in range(2)]


def test_layers_of_several_lists_count_through() -> None:
    paths = find_role_modules(family_model("mllama"), "vision", "down")
    tower = "model.vision_model"
    assert paths == [
        *(f"{tower}.transformer.layers.{index}.mlp.fc2" for index in range(2)),
        f"{tower}.global_transformer.layers.0.mlp.fc2",
    ]


def test_a_role_is_found_where_the_layers_of_a_stack_differ() -> None:
    paths = find_role_modules(family_model("mllama"), "language", "q")
    assert [path.split(".")[-2] for path in paths] == ["self_attn", "cross_attn"]


def test_the_language_stack_goes_by_the_language_models_type() -> None:
    assert find_role_modules(family_model("blip-2"), "language", "up")[0] == "language_model.model.decoder.layers.0.fc1"
    assert (
        find_role_modules(family_model("instructblip"), "language", "up")[0]
        == "language_model.model.layers.0.mlp.up_proj"
    )


def llava_of(tower: Any, text: Any) -> nn.Module:
    """A LLaVA of any tower and language model."""
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=tower.to_dict(), text_config=text))


def test_layers_of_a_composite_family_are_those_of_its_parts() -> None:
    tower = PixtralVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2
    )
    model = llava_of(tower, {"model_type": "phi", **text_sizes()})
    assert find_role_modules(model, "language", "o") == ["model.language_model.layers.0.self_attn.dense"]
    assert find_role_modules(model, "language", "down") == ["model.language_model.layers.0.mlp.fc2"]
    model.config.vision_feature_layer = -1
    model = llava_of(tower, {"model_type": "gemma2", **text_sizes(), "head_dim": 8, "num_key_value_heads": 1})
    assert find_role_modules(model, "language", "ffn_norm") == [
        "model.language_model.layers.0.pre_feedforward_layernorm"
    ]


def text_sizes() -> dict[str, int]:
    return {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 16,
    }


def test_a_family_without_a_tower_says_where_adapters_can_stand() -> None:
    with pytest.raises(InputError, match="This model has no part 'vision'; place the adapter in another part"):
        find_role_modules(family_model("fuyu"), "vision", "q")


def test_what_is_no_model_of_transformers_is_refused() -> None:
    with pytest.raises(InputError, match="A Linear is not a model of transformers"):
        get_anatomy(nn.Linear(1, 1))


def test_parts_and_roles_that_do_not_exist_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="No layers in part 'connector'"):
        find_role_modules(model, "connector", "q")
    with pytest.raises(InputError, match=r"No layers in part 'visoin'.* Did you mean 'vision'\?"):
        find_role_modules(model, "visoin", "q")
    with pytest.raises(InputError, match="The layers of 'vision' have no 'gate'"):
        find_role_modules(model, "vision", "gate")
    with pytest.raises(InputError, match="Unknown part 'tower'; the model has: head, vision"):
        find_part_modules(model, "tower")


def test_modalities_are_text_and_what_the_config_has_a_placeholder_for() -> None:
    model = tiny_model()
    assert list_modalities(model) == ("text", "image")
    model.config.image_token_id = None
    assert list_modalities(model) == ("text",)
    model = family_model("idefics")
    model.config.additional_vocab_size = 0
    assert list_modalities(model) == ("text",)
    model.config.image_token_id = 9
    assert get_placeholder_ids(model) == {"image": 9}


def test_the_tiny_model_is_read_to_its_second_last_state() -> None:
    assert tiny_config().vision_feature_layer == -2
    assert len(find_role_modules(tiny_model(), "vision", "q")) == 2
