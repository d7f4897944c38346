"""Merged files of every family, loaded as users without lora-mm do: by plain transformers, by plain PEFT."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import lora_mm
from lora_mm.adapters.support import find_obstacle
from lora_mm.errors import InputError
from lora_mm.merging.collect import collect_changes, get_unadapted_module
from lora_mm.merging.writers import write_model, write_stock_lora
from lora_mm.models.families import FAMILIES
from lora_mm.models.loading import Base, load_base
from tests.helpers.bases import PROCESSORS, make_family_base
from tests.helpers.families import family_batch
from tests.helpers.family_inputs import IMAGE, VOCABULARY, Batch
from tests.helpers.tiny import perturb

every_family = pytest.mark.parametrize(
    "family", [name for name in PROCESSORS if find_obstacle("mma", FAMILIES[name], "language") is None]
)
BARE = ("llava_next", "llava_onevision", "blip-2", "instructblip")
"""Families whose connector has a bare parameter."""

HAVE_BIASES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "idefics3",
    "blip-2",
    "instructblip",
    "fuyu",
    "vipllava",
    "qwen3_vl_moe",
)
"""Families whose configs can give every linear layer that reads a norm a bias."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: make_family_base(root / family, family) for family in PROCESSORS}


def adapted(folder: Path, *, bias: bool = False, train: tuple[str, ...] = ("connector",)) -> tuple[Base, Any]:
    """MMA in every part that takes it, perturbed, and the connector trained whole."""
    base = load_base(str(folder))
    torch.manual_seed(0)
    row = FAMILIES[base.model.config.model_type]
    parts = [part for part in ("language", "vision") if find_obstacle("mma", row, part) is None]
    at = "attn" if find_obstacle("moe_lora", row) else "block"  # what reads the other norm are experts
    items = [{"method": "mma", "at": at, "part": part, "rank": 4, "bias": bias, "dropout": 0} for part in parts]
    model = lora_mm.attach(base.model, items, train=train).eval()
    perturb(model, size=0.1)
    return base, model


def batch_of(family: str, modality: str, base: Base) -> Batch:
    batch = family_batch(family, (1,) if modality == "image" else (0,))
    drawn = VOCABULARY + 1 if family == "idefics" else IMAGE
    ids = batch["input_ids"]
    ids[ids == drawn] = base.model.config.image_token_id or drawn
    return batch


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    return model.eval()(**batch, use_cache=False).logits


def alike(found: Tensor, want: Tensor, bare: Tensor) -> None:
    """Equal to rounding; a tiny random Gemma's connector magnifies it to 6e-4."""
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)
    assert (bare - want).abs().max() > 0.1, "what the adapter does must show for this test to say anything"


@every_family
def test_a_merged_checkpoint_loads_whole_and_computes_what_the_adapter_did(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    base, model = adapted(folders[family])
    for modality in ("image", "text"):
        batch = batch_of(family, modality, base)
        want = logits(model, batch)
        with model.disable_adapter():
            bare = logits(model, batch)
        folder = tmp_path / modality
        folder.mkdir()
        write_model(base.model, collect_changes(base.model, modality), folder, base=base, dtype=torch.float32)
        merged, loading = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not any(loading.values()), loading
        assert type(merged) is type(base.model)
        alike(logits(merged, batch), want, bare)
    kept = {file.name for file in folders[family].iterdir()} - {"model.safetensors"}
    assert kept <= {file.name for file in folder.iterdir()}


@every_family
def test_as_a_stock_lora_it_computes_what_the_adapter_did(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    train = () if family in BARE else ("connector",)  # a stock LoRA holds no bare parameter
    base, model = adapted(folders[family], bias=True, train=train)
    batch = batch_of(family, "image", base)
    want = logits(model, batch)
    with model.disable_adapter():
        bare = logits(model, batch)
    write_stock_lora(base.model, collect_changes(base.model, "image"), tmp_path, base=base, dtype=torch.float32)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    stock = peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(folders[family]), str(tmp_path))
    alike(logits(stock, batch), want, bare)


@every_family
def test_biases_are_kept_if_the_config_allows_them_and_else_refused(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    base, model = adapted(folders[family], bias=True)
    batch, found = batch_of(family, "text", base), collect_changes(base.model, "text")
    if family not in HAVE_BIASES:
        assert any(get_unadapted_module(base.model, path).bias is None for path in found), "it has a bias everywhere"
        with pytest.raises(InputError, match=r"(?s)--as lora.*bias=false"):
            write_model(base.model, found, tmp_path, base=base, dtype=torch.float32)
        assert not list(tmp_path.iterdir())
        return
    want = logits(model, batch)
    write_model(base.model, found, tmp_path, base=base, dtype=torch.float32)
    torch.testing.assert_close(
        logits(AutoModelForImageTextToText.from_pretrained(tmp_path), batch), want, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_files_have_the_requested_dtype(folders: dict[str, Path], tmp_path: Path, dtype: torch.dtype) -> None:
    base, _ = adapted(folders["llava"])
    write_model(base.model, collect_changes(base.model, "text"), tmp_path, base=base, dtype=dtype)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in merged.parameters()} == {dtype}


def test_a_tied_head_that_is_trained_whole_is_saved_untied(tmp_path: Path) -> None:
    base = load_base("pocket")
    assert base.model.config.get_text_config().tie_word_embeddings
    model = lora_mm.attach(base.model, [{"method": "mma", "rank": 4}], train=["head"]).eval()
    perturb(model, size=0.05)
    batch = {"input_ids": torch.tensor([[1, 40, 50, 60, 70]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    want = logits(model, batch)
    write_model(base.model, collect_changes(base.model, "text"), tmp_path, base=base, dtype=torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert not torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight)
    torch.testing.assert_close(logits(merged, batch), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_is_dequantised_and_merged(tmp_path: Path, quantization: Any) -> None:
    base = load_base("pocket", quantization=quantization)
    torch.manual_seed(0)
    model = lora_mm.attach(base.model, [{"method": "mma", "at": "block", "rank": 4}]).eval()
    perturb(model, size=0.1)
    ids = torch.tensor([[1, 40, 50, 60, 70]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    want = logits(model, batch)
    with model.disable_adapter():
        bare = logits(model, batch)
    write_model(base.model, collect_changes(base.model, "text"), tmp_path, base=base, dtype=torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in config
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path)
    drift = (logits(merged, batch) - want).norm() / (bare - want).norm()
    assert drift < (1e-4 if quantization == "nf4" else 0.2), "int8 rounds what goes into each product too"
