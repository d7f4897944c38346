"""Parts trained whole: kept in fp32 by attach itself, saved and loaded so, and the base's own copy left alone."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import lora_mm
from lora_mm.errors import InputError
from lora_mm.jobs.session import load_recipe_base
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.writers import write_model, write_stock_lora
from lora_mm.models.anatomy import find_part
from lora_mm.models.families import FAMILIES
from lora_mm.models.loading import Base
from lora_mm.recipe.load import load_recipe
from tests.helpers import tiny
from tests.helpers.families import family_batch, family_model
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


# --- bare parameters -------------------------------------------------------------------------------------------------

BARE = {"blip-2": "query_tokens", "instructblip": "query_tokens", "llava_next": "model.image_newline"}


@torch.no_grad()
def family_logits(model: nn.Module, family: str) -> Tensor:
    return model.eval()(**family_batch(family), use_cache=False).logits


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_declared_parameter_of_the_connector_trains(family: str) -> None:
    model = lora_mm.attach(family_model(family), ["lora"], train=["connector"])
    base = model.get_base_model()
    declared = {name for name, _ in family_model(family).named_parameters() if find_part(base, name) == "connector"}
    trained = {
        name: p for name, p in base.named_parameters() if p.requires_grad and find_part(base, name) == "connector"
    }
    assert sum(p.numel() for p in trained.values()) == sum(
        p.numel() for name, p in family_model(family).named_parameters() if name in declared
    )
    perturb(model)
    model(**family_batch(family), use_cache=False).logits.square().mean().backward()
    idle = [name for name, p in trained.items() if p.grad is None]
    assert idle == [name for name in idle if UNUSED.get(family, "-") in name]


UNUSED: dict[str, str] = {}
"""Family → word in the names of the connector's parameters that a tiny batch does not use."""


@pytest.mark.parametrize("family", list(BARE))
@pytest.mark.parametrize("adapters", [["mma"], ["lora"], []])
def test_a_bare_parameter_is_trained_saved_loaded_and_merged(family: str, adapters: list[str], tmp_path: Path) -> None:
    expected = family_logits(family_model(family), family)
    placements = [{"method": name, "bias": False} for name in adapters]
    model = lora_mm.attach(family_model(family), placements, train=["connector"])
    assert torch.equal(family_logits(model, family), expected)
    (trained,) = [p for name, p in model.named_parameters() if p.requires_grad and "routed_parameter" in name]
    assert trained.dtype == torch.float32
    with torch.no_grad():
        trained += 1
    assert not torch.equal(family_logits(model, family), expected)
    with model.disable_adapter():
        assert torch.equal(family_logits(model, family), expected)
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    loaded = lora_mm.load(family_model(family), tmp_path / "adapter")
    assert torch.equal(family_logits(loaded, family), family_logits(model, family))
    assert not any(p.requires_grad for p in loaded.parameters())
    base = model.get_base_model()
    (tmp_path / "merged").mkdir()
    changes = collect_changes(base, "image" if adapters == ["mma"] else None)
    write_model(base, changes, tmp_path / "merged", base=make_base(base), dtype=torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    picture = family_batch(family, (1,))
    with torch.no_grad():
        found, want = (one.eval()(**picture, use_cache=False).logits for one in (merged, model))
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="A stock LoRA cannot hold the trained parameter"):
        write_stock_lora(base, changes, tmp_path, base=make_base(base), dtype=torch.float32)


def make_base(model: nn.Module) -> Base:
    """A base whose processor writes nothing."""
    processor = type("Processor", (), {"save_pretrained": lambda self, folder: None})()
    return Base("tiny", model, processor, None, "")


def test_a_copied_model_keeps_its_own_parameter() -> None:
    model = lora_mm.attach(family_model("blip-2"), ["mma"], train=["connector"])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(p for name, p in twin.named_parameters() if "routed_parameter" in name).add_(1)
    assert torch.equal(family_logits(model, "blip-2"), family_logits(family_model("blip-2"), "blip-2"))
    assert not torch.equal(family_logits(twin, "blip-2"), family_logits(model, "blip-2"))
