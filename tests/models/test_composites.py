"""Families that take any language model and tower: the layers are theirs, and an adapter on them merges exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import lora_mm
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.writers import write_model
from lora_mm.models.anatomy import find_role_modules, get_anatomy
from lora_mm.models.data_flow import check_norms
from lora_mm.models.loading import Base
from tests.helpers.families import family_batch
from tests.helpers.family_inputs import IMAGE, TEXT, TEXT_WIDTH, VISION, VOCABULARY
from tests.helpers.tiny import perturb

SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 12}
LANGUAGES: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**TEXT),
    "mistral": lambda: hf.MistralConfig(**TEXT),
    "qwen2": lambda: hf.Qwen2Config(**TEXT),
    "qwen3": lambda: hf.Qwen3Config(**TEXT, head_dim=12),
    "gemma2": lambda: hf.Gemma2Config(**TEXT, head_dim=12, **SLIDING),
    "gemma3": lambda: hf.Gemma3TextConfig(**TEXT, head_dim=12, **SLIDING),
}
TOWERS: dict[str, Callable[[], Any]] = {
    "clip": lambda: hf.CLIPVisionConfig(**VISION),
    "siglip": lambda: hf.SiglipVisionConfig(**VISION, vision_use_head=False),
    "dinov2": lambda: hf.Dinov2Config(**VISION, mlp_ratio=2),
}
PAIRS = [*((name, "clip") for name in LANGUAGES), *(("llama", tower) for tower in TOWERS if tower != "clip")]
BOTH = [
    {"method": "mma", "at": "block", "part": part, "rank": 4, "bias": False, "dropout": 0}
    for part in ("language", "vision")
]


def make_llava(language: str, tower: str) -> Any:
    torch.manual_seed(0)
    config = hf.LlavaConfig(
        vision_config=TOWERS[tower]().to_dict(),
        text_config=LANGUAGES[language]().to_dict(),
        image_token_index=IMAGE,
        vision_feature_select_strategy="full" if tower == "siglip" else "default",
    )
    return enlarge(hf.LlavaForConditionalGeneration(config))


def make_paligemma2() -> Any:
    torch.manual_seed(0)
    config = hf.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "gemma2", **TEXT, "head_dim": 12, **SLIDING},
        image_token_index=IMAGE,
        projection_dim=TEXT_WIDTH,
        hidden_size=TEXT_WIDTH,
        vocab_size=VOCABULARY,
    )
    return enlarge(hf.PaliGemmaForConditionalGeneration(config))


def enlarge(model: Any) -> Any:
    """Weights large enough that what an adapter does shows in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval().requires_grad_(False)


def check_adapter_at_random_values(model: Any, family: str, folder: Path) -> None:
    """Norms feed what they should, and the merged checkpoint computes what the formula computes at the norms."""
    batch = family_batch(family, (1,))
    assert check_norms(model, family_batch(family)) == []
    assert get_anatomy(model).other_readers == {}
    adapted = lora_mm.attach(model, BOTH).eval()
    perturb(adapted, size=0.1)
    base: Any = adapted.get_base_model()
    processor = type("Processor", (), {"save_pretrained": lambda self, folder: None})()
    made = Base("tiny", base, processor, None, "")
    write_model(base, collect_changes(base, "image"), folder, base=made, dtype=torch.float32)
    merged = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    with torch.no_grad():
        found, want = (one(**batch, use_cache=False).logits for one in (merged, adapted))
        with adapted.disable_adapter():
            bare = adapted(**batch, use_cache=False).logits
    assert (want - bare).abs().max() > 0.1
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("language", "tower"), PAIRS)
def test_a_llava_of_any_language_model_and_tower(language: str, tower: str, tmp_path: Path) -> None:
    model = make_llava(language, tower)
    norm = "pre_feedforward_layernorm" if "gemma" in language else "post_attention_layernorm"
    assert find_role_modules(model, "language", "ffn_norm") == [
        f"model.language_model.layers.{layer}.{norm}" for layer in range(2)
    ]
    assert len(find_role_modules(model, "vision", "attn_norm")) == 2, "the last layer is not read, whatever the tower"
    check_adapter_at_random_values(model, "llava", tmp_path)


def test_paligemma_2_has_the_norms_of_gemma_2(tmp_path: Path) -> None:
    model = make_paligemma2()
    assert all("pre_feedforward_layernorm" in path for path in find_role_modules(model, "language", "ffn_norm"))
    check_adapter_at_random_values(model, "paligemma", tmp_path)
