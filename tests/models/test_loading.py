"""Loading a base from a folder: precisions, what is quantised, memory, fingerprint, and bases that cannot be had."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lora_mm
from lora_mm.errors import InputError
from lora_mm.models.anatomy import find_part, find_role_modules, get_anatomy, get_placeholder_ids
from lora_mm.models.base_files import compute_fingerprint
from lora_mm.models.description import ModelDescription
from lora_mm.models.families import FAMILIES
from lora_mm.models.forward import move_batch
from lora_mm.models.loading import Base, load_base
from lora_mm.models.memory import measure_memory
from lora_mm.models.precision import make_quantization_config
from tests.helpers import tiny
from tests.helpers.bases import make_family_base
from tests.helpers.families import family_model

try:
    import bitsandbytes
except Exception:  # it raises whatever the missing library makes it raise
    bitsandbytes = None

quantised = pytest.mark.skipif(bitsandbytes is None, reason="bitsandbytes does not load here")


def linear_types(model: nn.Module) -> dict[str, set[type]]:
    """Part → types of its linear layers."""
    found: dict[str, set[type]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found.setdefault(find_part(model, name), set()).add(type(module))
    return found


@torch.no_grad()
def logits(base: Base) -> Tensor:
    return base.model(**move_batch(base.model, tiny.tiny_batch())).logits.float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loads_frozen_in_the_dtype_asked_for(base_folder: Path, dtype: str) -> None:
    base = load_base(str(base_folder), dtype=dtype)  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in base.model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.name == str(base_folder)
    assert base.revision is None
    expected = tiny.tiny_model()(**tiny.tiny_batch()).logits
    torch.testing.assert_close(logits(base), expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.1)


def test_an_attention_implementation_is_passed_on(base_folder: Path) -> None:
    assert load_base(str(base_folder), attention="eager").model.config._attn_implementation == "eager"


@quantised
@pytest.mark.parametrize(("quantization", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_the_language_model_is_quantised_and_nothing_else(base_folder: Path, quantization: str, kind: str) -> None:
    base = load_base(str(base_folder), dtype="bfloat16", quantization=quantization)  # type: ignore[arg-type]
    small = getattr(bitsandbytes.nn, kind)
    assert linear_types(base.model) == {
        "language": {small},
        "vision": {nn.Linear},
        "connector": {nn.Linear},
        "head": {nn.Linear},
    }
    near = logits(base)
    exact = tiny.tiny_model()(**tiny.tiny_batch()).logits
    agreement = torch.cosine_similarity(near.flatten(), exact.flatten(), dim=0)
    assert agreement > (0.8 if quantization == "nf4" else 0.99)  # measured 0.88 and above 0.99; noise gives 0


@quantised
def test_parts_to_keep_are_those_named(base_folder: Path) -> None:
    base = load_base(str(base_folder), dtype="bfloat16", quantization="nf4", full_precision=["head", "connector"])
    kinds = linear_types(base.model)
    assert kinds["vision"] == {bitsandbytes.nn.Linear4bit}
    assert kinds["connector"] == {nn.Linear}
    with pytest.raises(InputError, match="full_precision: unknown part 'tower'"):
        load_base(str(base_folder), quantization="nf4", full_precision=["tower"])


@quantised
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_adapters_train_on_a_quantised_base_also_after_an_eval_forward(base_folder: Path, quantization: str) -> None:
    """With AVX512-BF16, bitsandbytes repacks 4-bit weights at the first eval forward on a CPU, then loses gradients."""
    base = load_base(str(base_folder), dtype="bfloat16", quantization=quantization)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = lora_mm.attach(base.model, ["mma", {"method": "mma", "part": "vision"}, {"method": "lora", "at": "all"}])
    tiny.perturb(model, size=0.1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = move_batch(model, tiny.tiny_batch())
    losses = []
    gradients: list[dict[str, Tensor]] = []
    for _ in range(2):
        model.train()
        torch.manual_seed(1)
        loss = model(**batch, labels=batch["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
        gradients.append({name: p.grad.clone() for name, p in trained.items() if p.grad is not None})
        losses.append(loss.item())
        model.eval()
        with torch.no_grad():  # the trap
            model(**batch)
    # Nothing was stepped, so the second pass must repeat the first.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=2e-2, atol=2e-2 * gradient.abs().max().item())
    optimizer.step()
    model.train()
    torch.manual_seed(1)
    assert model(**batch, labels=batch["input_ids"]).loss.item() < losses[0]


@quantised
def test_memory_counts_the_weights_that_4_bits_stand_for(base_folder: Path) -> None:
    full = measure_memory(load_base(str(base_folder)).model)
    small = measure_memory(load_base(str(base_folder), dtype="bfloat16", quantization="nf4").model)
    assert {part: row[0] for part, row in small.items()} == {part: row[0] for part, row in full.items()}
    assert small["vision"][2] == full["vision"][2] // 2
    linears = 2 * ([48 * 48] * 2 + [48 * 24] * 2 + [48 * 96] * 3)  # q o, k v, gate up down, in two layers
    rest = full["language"][0] - sum(linears)
    blocks = [count // 64 for count in linears]  # a byte for the largest of each, and four for every 256 of these
    scales = sum(count + 4 * -(-count // 256) for count in blocks)
    assert small["language"][2] == sum(linears) // 2 + scales + rest * 2


def test_memory_counts_what_trains_by_part(base_folder: Path) -> None:
    base = load_base(str(base_folder))
    before = measure_memory(base.model)
    assert set(before) == {"vision", "connector", "language", "head"}
    assert sum(row[0] for row in before.values()) == sum(p.numel() for p in base.model.parameters())
    assert all(row[1] == 0 and row[2] == row[0] * 4 for row in before.values())
    model = lora_mm.attach(base.model, [{"method": "mma", "rank": 8}], train=["connector"])
    after = measure_memory(model)
    width = 48
    one = width * 8 + 8 + 2 * (width * 4 + width) + 2 * width + 2
    assert after["language"][1] == 2 * one + 2 * width
    assert after["connector"][1] == before["connector"][0]
    assert after["vision"][1] == after["head"][1] == 0


def test_fingerprint_is_the_bases_whatever_it_is_loaded_in(base_folder: Path, tmp_path: Path) -> None:
    prints = {load_base(str(base_folder), dtype=dtype).fingerprint for dtype in ("float32", "bfloat16")}  # type: ignore[arg-type]
    assert prints == {compute_fingerprint(base_folder)}
    moved = shutil.copytree(base_folder, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9", "dtype": "bfloat16"}))
    assert compute_fingerprint(moved) == compute_fingerprint(base_folder)
    assert compute_fingerprint(tiny.make_base(tmp_path / "other", seed=1)) != compute_fingerprint(base_folder)
    (moved / "config.json").write_text(json.dumps({**config, "vision_feature_layer": -1}))
    assert compute_fingerprint(moved) != compute_fingerprint(base_folder)


def test_a_hub_id_without_network_is_told_in_two_lines_and_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        load_base("some-people/some-model")
    assert time.monotonic() - begun < 5
    what, way_out = str(error.value).splitlines()
    assert "some-people/some-model" in what
    assert "base.model=FOLDER" in way_out
    assert "scienceqa-pocket" in way_out


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"base.model: no folder '.*nowhere'\."):
        load_base(str(tmp_path / "nowhere"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        load_base(str(tmp_path))


def test_parts_that_are_not_quantised_are_those_that_the_family_has() -> None:
    fuyu, qwen = (get_anatomy(family_model(name)).parts for name in ("fuyu", "qwen2_vl"))
    skipped = ("vision", "connector", "head")
    made = make_quantization_config("nf4", "float32", fuyu, skipped)
    assert made.llm_int8_skip_modules == ["model.vision_embed_tokens", "lm_head"]
    made = make_quantization_config("int8", "float32", qwen, skipped)
    assert made.llm_int8_skip_modules == ["model.visual", "model.visual.merger", "lm_head"]


@pytest.mark.parametrize("spoil", ["cut", "gone", "config"])
def test_damaged_weights_are_refused_by_the_bases_name(base_folder: Path, tmp_path: Path, spoil: str) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base")
    weights = base / "model.safetensors"
    if spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif spoil == "gone":
        weights.unlink()
    else:
        (base / "config.json").write_text("{")
    with pytest.raises(InputError, match=f"base.model: '{base}' cannot be loaded"):
        load_base(str(base))


def test_weights_that_lack_a_tensor_are_refused(base_folder: Path, tmp_path: Path) -> None:
    """Transformers draws what is missing at random and only logs it."""
    base = shutil.copytree(base_folder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.self_attn.q_proj.weight"))
    del tensors[name]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="q_proj"):
        load_base(str(base))


def test_place_moves_pictures_to_the_models_dtype_and_leaves_ids(base_folder: Path) -> None:
    base = load_base(str(base_folder), dtype="bfloat16")
    placed = move_batch(base.model, tiny.tiny_batch())
    assert placed["pixel_values"].dtype == torch.bfloat16
    assert placed["input_ids"].dtype == torch.int64


def test_where_the_config_does_not_tell_the_pictures_token_the_processor_does(tmp_path: Path) -> None:
    """Idefics; here not the second of the added tokens, as in the checkpoints, but an id of the tokenizer's own."""
    folder = make_family_base(tmp_path / "base", "idefics")
    assert "image_token_id" not in json.loads((folder / "config.json").read_text())
    base = load_base(str(folder))
    assert get_placeholder_ids(base.model) == {"image": base.processor.image_token_id} == {"image": 3}


# --- a type that is not known, and descriptions ----------------------------------------------------------------------


def test_of_a_type_without_a_row_the_parts_are_found(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = get_anatomy(load_base(str(base_folder)).model)
    monkeypatch.delitem(FAMILIES, "llava")
    found = get_anatomy(load_base(str(base_folder)).model)
    assert (found.parts, found.language, found.vision) == (known.parts, known.language, known.vision)
    assert found.family.crops == "unknown"


def test_a_type_without_a_row_is_described_by_likeness(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "llava")
    said = ModelDescription(like="llava_next", crops="none")
    anatomy = get_anatomy(load_base(str(base_folder), anatomy=said).model)
    assert anatomy.family.crops == "none"
    assert anatomy.family.placeholders == FAMILIES["llava_next"].placeholders
    with pytest.raises(InputError, match=r"no family 'llava' to be like; known: llava_next.* Did you mean"):
        load_base(str(base_folder), anatomy=ModelDescription(like="llava"))


def test_what_is_described_is_kept_and_the_rest_is_found(base_folder: Path) -> None:
    """Also the rule that the last layer of the tower is not read."""
    known = get_anatomy(load_base(str(base_folder)).model)
    said = ModelDescription.model_validate({"vision": {"layers": ["model.vision_tower.encoder.layers"]}})
    anatomy = get_anatomy(load_base(str(base_folder), anatomy=said).model)
    assert (anatomy.parts, anatomy.language, anatomy.vision) == (known.parts, known.language, known.vision)
    assert anatomy.description is said
    said = ModelDescription.model_validate({"language": {"roles": {"q": "self_attn.k_proj"}}})
    model = load_base(str(base_folder), anatomy=said).model
    assert find_role_modules(model, "language", "q") == find_role_modules(model, "language", "k")
    assert find_role_modules(model, "vision", "q") == [roles["q"] for roles in known.vision.roles]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (
            {"vision": {"layers": ["model.tower.layers"]}},
            "this llava model has no 'model.tower.layers', its vision layers",
        ),
        ({"language": {"roles": {"q": "attn.wq"}}}, "no language layer of this llava model has q: attn.wq"),
    ],
)
def test_a_description_that_does_not_fit_names_what_is_missing(
    base_folder: Path, said: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InputError, match=f"base.anatomy: {fault}"):
        load_base(str(base_folder), anatomy=ModelDescription.model_validate(said))
