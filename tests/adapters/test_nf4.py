"""Several methods in one adapter, in one file, on bases whose language model and tower are in 4 bits (NF4)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import lora_mm
from lora_mm.artifact.files import WEIGHTS
from lora_mm.artifact.folder import load_adapter, save_adapter
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.models.anatomy import find_role_modules
from lora_mm.models.forward import move_batch
from lora_mm.models.loading import Base, load_base
from tests.helpers.bases import make_family_base
from tests.helpers.tiny import perturb

bitsandbytes = pytest.importorskip("bitsandbytes")

LANGUAGE: list[dict[str, Any]] = [
    {"method": "mma", "rank": 4, "dropout": 0},
    {"method": "moe_lora", "rank": 2, "experts": 3, "layers": [1]},
    {"method": "visual_expert", "at": "attn", "rank": 2, "dropout": 0},
]
CROPS = {"method": "crop_lora", "at": "block", "rank": 2, "experts": 2, "dropout": 0}
TOWER = {"method": "lora", "part": "vision", "at": "all", "rank": 2}
ADAPTERS = {
    "llava_next": [*LANGUAGE, CROPS],
    "idefics3": [*LANGUAGE, CROPS, {"method": "mma", "part": "vision", "at": "attn", "rank": 4, "dropout": 0}],
    "qwen2_5_vl": [*LANGUAGE, TOWER],
}
METHODS = {"routed_modality", "routed_router", "routed_down", "routed_up"}


def load(folder: Path) -> Base:
    return load_base(str(folder), dtype="bfloat16", quantization="nf4", full_precision=["connector", "head"])


@pytest.mark.parametrize("family", list(ADAPTERS))
def test_many_methods_in_one_adapter_on_a_4_bit_base(family: str, tmp_path: Path, scienceqa_folder: Path) -> None:
    folder = make_family_base(tmp_path / "base", family)
    base = load(folder)
    for part, role in (("language", "o"), ("vision", "o")):
        module = base.model.get_submodule(find_role_modules(base.model, part, role)[0])
        assert isinstance(module, bitsandbytes.nn.Linear4bit), part
    picture = next((scienceqa_folder / "images").rglob("*.png"))
    examples = [Example("pictured", "Which?", "A", (picture,)), Example("text", "Which of these?", "B")]
    batch = move_batch(base.model, Collator(base.processor, max_length=900)(examples))
    del batch["labels"]
    expected = logits(base.model, batch)

    model = lora_mm.attach(base.model, ADAPTERS[family], train=["connector"]).eval()
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), expected)
    torch.testing.assert_close(logits(model, batch), expected, rtol=0.1, atol=0.1)  # the connector computes in fp32
    perturb(model, size=0.1)
    out = model(**batch, use_cache=False).logits
    assert (out - expected).abs().max() > 0.1
    out.float().square().mean().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []

    save_adapter(model, tmp_path / "adapter", base=base, recipe="")
    with safe_open(tmp_path / "adapter" / WEIGHTS, "pt") as file:
        names = set(file.keys())
    assert len(names) == len(trained), "all of it in one file"
    assert {kind for kind in METHODS if any(f".{kind}" in name for name in names)} == METHODS
    again = load_adapter(load(folder), tmp_path / "adapter")
    assert torch.equal(logits(again, batch), logits(model, batch))
    with again.disable_adapter():
        assert torch.equal(logits(again, batch), expected)


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch, use_cache=False).logits
