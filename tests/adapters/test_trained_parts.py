"""Parts trained whole: kept in fp32 by attach itself, saved and loaded so, and the base's own copy left alone."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lora_mm
from lora_mm.errors import InputError
from lora_mm.jobs.session import load_recipe_base
from lora_mm.recipe.load import load_recipe
from tests.helpers import tiny
from tests.helpers.tiny import perturb, tiny_batch, tiny_model


def trained_dtypes(model: nn.Module) -> set[torch.dtype]:
    """Dtypes of the copies of the parts that an adapter trains whole."""
    return {parameter.dtype for name, parameter in model.named_parameters() if ".modules_to_save." in name}


def half_batch() -> dict[str, Tensor]:
    batch = tiny_batch()
    return {**batch, "pixel_values": batch["pixel_values"].bfloat16()}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(**half_batch(), use_cache=False).logits


@pytest.mark.parametrize("adapters", [["mma"], ["lora"], []])
def test_a_part_of_a_bf16_base_trains_in_fp32_and_loads_so(adapters: list[str], tmp_path: Path) -> None:
    expected = logits(tiny_model().bfloat16())
    model = lora_mm.attach(tiny_model().bfloat16(), adapters, train=["connector"]).eval()
    assert trained_dtypes(model) == {torch.float32}
    assert logits(model).dtype == torch.bfloat16
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    perturb(model)
    model.save_pretrained(str(tmp_path))
    loaded = lora_mm.load(tiny_model().bfloat16(), tmp_path)
    assert trained_dtypes(loaded) == {torch.float32}
    # A LoRA trains in our fused layers and loads into PEFT's own. In bf16 they round otherwise.
    tolerance = 0.3 if adapters == ["lora"] else 0
    torch.testing.assert_close(logits(loaded), logits(model), rtol=tolerance, atol=tolerance)


def test_the_command_line_trains_the_same_dtype(base_folder: Path, scienceqa_folder: Path, tmp_path: Path) -> None:
    file = tiny.make_recipe(tmp_path / "tiny.yaml", base_folder, scienceqa_folder)
    recipe = load_recipe(str(file), ["base.dtype=bfloat16"])
    model = lora_mm.attach(load_recipe_base(recipe).model, recipe.adapters, train=recipe.train)
    assert trained_dtypes(model) == {torch.float32}


def test_the_copy_of_a_model_is_kept_in_fp32_too() -> None:
    model = lora_mm.attach(tiny_model().bfloat16(), ["mma"], train=["connector"]).eval()
    perturb(model)
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"Unknown part 'conector'; the model has: .*connector"):
        lora_mm.attach(tiny_model(), ["mma"], train=["conector"])
