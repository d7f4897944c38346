"""Every row of the anatomy against a model built from its configuration."""

from collections.abc import Callable

import pytest
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from lora_mm.errors import InputError
from lora_mm.models.anatomy import FAMILIES, PARTS, anatomy_of, layer_modules, modalities, part_of
from tests.tiny import tiny_config, tiny_model

BUILT: dict[str, Callable[[], nn.Module]] = {"llava": tiny_model}


def llava(vision_feature_layer: int | list[int], layers: int = 5) -> nn.Module:
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=1, image_size=4, patch_size=2
    )
    text = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16)
    config = LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict())
    config.vision_feature_layer = vision_feature_layer
    return LlavaForConditionalGeneration(config)


def test_every_family_has_a_model_to_be_checked_on() -> None:
    assert set(BUILT) == set(FAMILIES)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_path_exists(family: str) -> None:
    model, row = BUILT[family](), FAMILIES[family]
    assert anatomy_of(model) is row
    for path in row.parts.values():
        model.get_submodule(path)
    for stack in (row.language, row.vision):
        layers = model.get_submodule(stack.layers)
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            for role, path in stack.roles.items():
                module = layer.get_submodule(path)
                assert isinstance(module, nn.Linear) is not role.endswith("norm"), path
                assert not list(module.children()), "adapters sit on leaves"
    for attribute in row.placeholders.values():
        assert isinstance(getattr(model.config, attribute), int)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_linear_layer_of_a_stack_has_a_role(family: str) -> None:
    model, row = BUILT[family](), FAMILIES[family]
    for stack in (row.language, row.vision):
        layer = model.get_submodule(stack.layers)[0]
        linear = {path for path, module in layer.named_modules() if isinstance(module, nn.Linear)}
        assert linear <= set(stack.roles.values())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_parameter_is_in_one_part(family: str) -> None:
    model = BUILT[family]()
    parts = {part_of(model, name) for name, _ in model.named_parameters()}
    assert parts == set(FAMILIES[family].parts) <= set(PARTS)
    assert part_of(model, "elsewhere.weight") == "other"
    assert part_of(model, "model.vision_tower_of_another") == "other"


@pytest.mark.parametrize(
    ("chosen", "depth"), [(-1, 5), (-2, 4), (-5, 1), (3, 3), (0, 0), ([-2], 4), ([1, -3], 3), ([-4, 4, 2], 4)]
)
def test_only_tower_layers_that_are_read_are_listed(chosen: int | list[int], depth: int) -> None:
    model = llava(chosen)
    paths = layer_modules(model, "vision", "attn_norm")
    assert paths == [f"model.vision_tower.encoder.layers.{index}.layer_norm1" for index in range(depth)]


def test_all_language_layers_are_listed() -> None:
    paths = layer_modules(tiny_model(), "language", "down")
    assert paths == [f"model.language_model.layers.{index}.mlp.down_proj" for index in range(2)]


def test_an_unknown_family_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"No anatomy for models of type 'Linear'; described are: .*llava"):
        anatomy_of(nn.Linear(1, 1))
    model = tiny_model()
    model.config.model_type = "lava"
    with pytest.raises(InputError, match=r"'lava'.* Did you mean 'llava'\?"):
        anatomy_of(model)


def test_parts_and_roles_that_do_not_exist_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="No layers in part 'connector'"):
        layer_modules(model, "connector", "q")
    with pytest.raises(InputError, match=r"No layers in part 'visoin'.* Did you mean 'vision'\?"):
        layer_modules(model, "visoin", "q")
    with pytest.raises(InputError, match="The layers of 'vision' have no 'gate'"):
        layer_modules(model, "vision", "gate")


def test_modalities_are_text_and_what_the_config_has_a_placeholder_for() -> None:
    model = tiny_model()
    assert modalities(model) == ("text", "image")
    model.config.image_token_id = None
    assert modalities(model) == ("text",)


def test_the_tiny_model_is_read_to_its_second_last_state() -> None:
    assert tiny_config().vision_feature_layer == -2
    assert len(layer_modules(tiny_model(), "vision", "q")) == 2
