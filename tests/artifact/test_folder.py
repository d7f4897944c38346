"""Adapter folders: written whole, loaded equal, and refused with the reason if they do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import lora_mm
from lora_mm.artifact.files import CONFIG, PREPROCESSING, RECIPE, WEIGHTS, list_shared_files
from lora_mm.artifact.folder import load_adapter, round_adapter_weights, save_adapter
from lora_mm.errors import InputError, LoraMMError
from lora_mm.models.loading import load_base
from lora_mm.recipe.load import load_recipe
from tests.helpers import tiny

ADAPTERS = [{"method": "mma", "rank": 4}, {"method": "mma", "part": "vision", "rank": 4}]


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(**tiny.tiny_batch(), use_cache=False).logits


@pytest.fixture(scope="module")
def written(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """An adapter folder, and the logits of the model that it was saved from."""
    base = load_base(str(base_folder))
    model = lora_mm.attach(base.model, ADAPTERS, train=["connector"]).eval()
    tiny.perturb(model)
    folder = tmp_path_factory.mktemp("written") / "adapter"
    save_adapter(model, folder, base=base, recipe="name: tiny\n")
    return folder, logits(model)


@pytest.fixture
def folder(written: tuple[Path, Tensor], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(written[0], tmp_path / "adapter")


def refusal(base_folder: Path, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load_adapter(load_base(str(base_folder)), folder)
    assert error.value.exit_code == 2
    return str(error.value)


def share_refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        list_shared_files(folder)
    return str(error.value)


def respoil(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_holds_config_weights_recipe_and_inputs(written: tuple[Path, Tensor], base_folder: Path) -> None:
    folder, _ = written
    assert {CONFIG, WEIGHTS, RECIPE, PREPROCESSING} <= {file.name for file in folder.iterdir()}
    config = json.loads((folder / CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(base_folder)
    assert [item["part"] for item in config["placements"]] == ["language", "vision"]
    assert (folder / RECIPE).read_text() == "name: tiny\n"
    facts = json.loads((folder / PREPROCESSING).read_text())
    assert facts["base"]["name"] == str(base_folder)
    assert facts["inputs"]["image"]["crop_size"] == {"height": 16, "width": 16}
    assert facts["inputs"]["tokens"]["eos"] == 2


def test_holds_every_trained_tensor_once_and_nothing_of_the_base(
    written: tuple[Path, Tensor], base_folder: Path
) -> None:
    model = lora_mm.attach(load_base(str(base_folder)).model, ADAPTERS, train=["connector"])
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(tensor.numel() for tensor in load_file(written[0] / WEIGHTS).values()) == count


def test_loads_to_the_same_model_bitwise_ready_for_inference(written: tuple[Path, Tensor], base_folder: Path) -> None:
    model = load_adapter(load_base(str(base_folder)), written[0])
    assert torch.equal(logits(model), written[1])
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_stock_peft_loads_it_too(written: tuple[Path, Tensor], base_folder: Path) -> None:
    model = peft.PeftModel.from_pretrained(load_base(str(base_folder)).model, str(written[0]))
    assert torch.equal(logits(model), written[1])


def test_plain_lora_goes_through_the_same_folder(base_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(base_folder))
    model = lora_mm.attach(base.model, [{"method": "lora", "rank": 2}], train=["connector"]).eval()
    tiny.perturb(model)
    save_adapter(model, tmp_path / "lora", base=base, recipe="name: tiny\n")
    assert json.loads((tmp_path / "lora" / CONFIG).read_text())["peft_type"] == "LORA"
    assert torch.equal(logits(load_adapter(load_base(str(base_folder)), tmp_path / "lora")), logits(model))


@pytest.mark.parametrize("adapters", [ADAPTERS, [{"method": "lora", "rank": 2}]], ids=["mma", "lora"])
def test_parts_trained_in_fp32_on_a_bf16_base_are_loaded_in_fp32(
    base_folder: Path, tmp_path: Path, adapters: list[dict[str, object]]
) -> None:
    """A run in bfloat16 trains whole parts in fp32; rounded they would score differently."""
    base = load_base(str(base_folder), dtype="bfloat16")
    model = lora_mm.attach(base.model, adapters, train=["connector"]).eval()
    model.get_submodule("base_model.model.model.multi_modal_projector").modules_to_save.float()
    tiny.perturb(model, size=0.1)
    save_adapter(model, tmp_path / "adapter", base=base, recipe="name: tiny\n")
    loaded = load_adapter(load_base(str(base_folder), dtype="bfloat16"), tmp_path / "adapter")
    batch = tiny.tiny_batch()
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    with torch.no_grad():
        assert torch.isfinite(loaded(**batch).logits).all()
    held = peft.get_peft_model_state_dict(loaded, save_embedding_layers=False)
    for name, tensor in load_file(tmp_path / "adapter" / WEIGHTS).items():
        assert torch.equal(held[name], tensor), name


def test_missing_unexpected_and_misshapen_tensors_are_all_named(folder: Path, base_folder: Path) -> None:
    names = sorted(load_file(folder / WEIGHTS))
    missing = next(name for name in names if "routed_down.weight" in name)
    misshapen = next(name for name in names if "routed_up.weight" in name)

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[missing]
        tensors["base_model.model.stray"] = torch.zeros(1)
        tensors[misshapen] = torch.zeros(2, 3, 4)

    respoil(folder / WEIGHTS, change)
    message = refusal(base_folder, folder)
    assert f"missing tensor {missing}" in message
    assert "unexpected tensor base_model.model.stray" in message
    assert f"tensor {misshapen} is (2, 3, 4), the model's is (2," in message


def test_many_wrong_tensors_are_listed_briefly(folder: Path, base_folder: Path) -> None:
    respoil(folder / WEIGHTS, lambda tensors: [tensors.pop(name) for name in list(tensors)[1:]])
    lines = refusal(base_folder, folder).splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("… and ")


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_weights_are_refused(folder: Path, base_folder: Path, keep: int) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    message = refusal(base_folder, folder)
    assert str(file) in message
    assert "not a complete safetensors file" in message


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, RECIPE, PREPROCESSING])
def test_a_missing_file_is_named(folder: Path, base_folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"not an adapter folder of lora-mm; it lacks {name}." in refusal(base_folder, folder)


def test_a_missing_folder_is_refused(tmp_path: Path, base_folder: Path) -> None:
    assert "No adapter folder" in refusal(base_folder, tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"'])
@pytest.mark.parametrize("name", [CONFIG, PREPROCESSING])
def test_damaged_json_is_refused_by_file(folder: Path, base_folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert str(folder / name) in refusal(base_folder, folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("peft_type", "NONESUCH", "NONESUCH"),
        ("peft_type", None, "peft_type"),
        ("placements", [{"method": "mma", "rnak": 4}], "rnak"),
        ("placements", [{"method": "mma", "rank": 4, "layers": [7]}], r"layers [7]"),
    ],
)
def test_an_invalid_config_is_refused(folder: Path, base_folder: Path, key: str, value: object, message: str) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, key: value}))
    assert message in refusal(base_folder, folder)


def test_values_that_are_not_finite_numbers_are_refused_by_tensor(folder: Path, base_folder: Path) -> None:
    """They would give empty answers and a score of 0 without a word."""
    first, second, *_ = sorted(load_file(folder / WEIGHTS))

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[first].view(-1)[0] = torch.nan
        tensors[second].view(-1)[-1] = torch.inf

    respoil(folder / WEIGHTS, change)
    assert refusal(base_folder, folder).splitlines() == [
        f"{folder / WEIGHTS}: holds values that are not finite numbers (NaN or infinite):",
        first,
        second,
    ]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.float64])
def test_tensors_of_other_types_are_refused_by_name(folder: Path, base_folder: Path, dtype: torch.dtype) -> None:
    first = min(load_file(folder / WEIGHTS))
    respoil(folder / WEIGHTS, lambda tensors: tensors.update({first: tensors[first].to(dtype)}))
    for refused in (refusal(base_folder, folder), share_refusal(folder)):
        assert "weights of an adapter are F32, F16, BF16:" in refused
        assert first in refused


def test_a_rank_that_no_tensor_has_is_refused_before_memory_is_taken(folder: Path, base_folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["placements"][0]["rank"] = 60_000
    (folder / CONFIG).write_text(json.dumps(config))
    assert "asks for rank 60,000, but no tensor" in refusal(base_folder, folder)


# --- accepted, several, and in fewer bits ---------------------------------------------------------------------------


def test_a_pickle_is_refused_even_beside_safetensors(folder: Path, base_folder: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "adapter_model.bin")
    message = refusal(base_folder, folder)
    assert "adapter_model.bin" in message
    assert "runs code when read" in message


def test_an_accepted_base_takes_the_whole_adapter(folder: Path, tmp_path: Path, base_folder: Path) -> None:
    other = load_base(str(tiny.make_base(tmp_path / "other", seed=1)))
    assert str(base_folder) in refusal(tmp_path / "other", folder)
    with pytest.warns(UserWarning, match=r"trained on base .* Accepted\."):
        model = load_adapter(other, folder, accept=["base"])
    held = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    assert all(torch.equal(held[name], tensor) for name, tensor in load_file(folder / WEIGHTS).items())


def test_adapters_on_one_base_answer_as_each_alone(
    written: tuple[Path, Tensor], base_folder: Path, tmp_path: Path
) -> None:
    """The second has other placements and does not train the connector."""
    base = load_base(str(base_folder))
    bare = logits(base.model)
    other = lora_mm.attach(base.model, [{"method": "visual_expert", "rank": 2}]).eval()
    tiny.perturb(other, seed=5)
    save_adapter(other, tmp_path / "other", base=base, recipe="name: tiny\n")
    alone = {"one": written[1], "two": logits(other)}

    base = load_base(str(base_folder))
    model = load_adapter(base, written[0], "one")
    assert load_adapter(base, tmp_path / "other", "two", onto=model) is model
    assert model.active_adapter == "one"
    for name in ("one", "two", "two", "one"):
        model.set_adapter(name)
        assert torch.equal(logits(model), alone[name]), name
        with model.disable_adapter():
            assert torch.equal(logits(model), bare)


def test_adapters_of_two_types_on_one_base_are_refused(
    written: tuple[Path, Tensor], base_folder: Path, tmp_path: Path
) -> None:
    base = load_base(str(base_folder))
    save_adapter(lora_mm.attach(base.model, "lora"), tmp_path / "lora", base=base, recipe="name: tiny\n")
    base = load_base(str(base_folder))
    model = load_adapter(base, written[0], "one")
    with pytest.raises(InputError, match="is a LORA adapter, but those already on the base are ROUTED"):
        load_adapter(base, tmp_path / "lora", "two", onto=model)
    assert torch.equal(logits(model), written[1])


@pytest.mark.parametrize("adapters", [ADAPTERS, [{"method": "lora", "rank": 2}]], ids=["mma", "lora"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_file_is_half_as_large_and_loads_as_it_was_saved(
    base_folder: Path, tmp_path: Path, adapters: list[dict[str, object]], dtype: torch.dtype
) -> None:
    base = load_base(str(base_folder))
    torch.manual_seed(0)
    model = lora_mm.attach(base.model, adapters, train=["connector"]).eval()
    tiny.perturb(model)
    exact = logits(model)
    round_adapter_weights(model, dtype)
    save_adapter(model, tmp_path / "small", base=base, recipe="name: tiny\n", dtype=dtype)
    tensors = load_file(tmp_path / "small" / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    loaded = load_adapter(load_base(str(base_folder)), tmp_path / "small")
    held = peft.get_peft_model_state_dict(loaded, save_embedding_layers=False)
    assert {tensor.dtype for tensor in held.values()} == {torch.float32}
    assert all(torch.equal(held[name], tensor.float()) for name, tensor in tensors.items())
    assert torch.equal(logits(loaded), logits(model))
    assert 0 < (logits(loaded) - exact).abs().max() < 0.1


def test_a_value_too_large_for_16_bits_is_refused_by_its_tensor(base_folder: Path) -> None:
    model = lora_mm.attach(load_base(str(base_folder)).model, "mma")
    next(p for name, p in model.named_parameters() if "routed_up" in name).data[0, 0] = 1e6
    with pytest.raises(LoraMMError, match=r"save_dtype: .*routed_up.* too large for torch.float16; use bfloat16"):
        round_adapter_weights(model, torch.float16)
    round_adapter_weights(model, torch.bfloat16)


def test_mixture_of_modality_adapters_of_a_7b_base_are_under_8_mb(tmp_path: Path) -> None:
    """On LLaVA-1.5-7B's real shapes, which no memory is spent on: 3.1 million parameters as the recipe has them; with
    the projector that LaVIN trains beside them (1024 → 128 → 4096), its 3.8 million."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ).to_dict(),
        text_config=LlamaConfig(vocab_size=32064).to_dict(),  # the others are a 7B Llama's
        image_token_id=32000,
    )
    with torch.device("meta"):
        bare = LlavaForConditionalGeneration(config)
        assert 7e9 < sum(parameter.numel() for parameter in bare.parameters()) < 7.2e9
        model = lora_mm.attach(bare, load_recipe("scienceqa").adapters)
    shapes = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    assert {tensor.device.type for tensor in shapes.values()} == {"meta"}
    sizes = {name: tensor.shape for name, tensor in shapes.items()}
    assert sum(shape.numel() for shape in sizes.values()) == 3_102_246
    sizes |= {
        f"projector.{n}": torch.Size(shape) for n, shape in enumerate([(128, 1024), (128,), (4096, 128), (4096,)])
    }
    trained = sum(shape.numel() for shape in sizes.values())
    assert 3.7e6 < trained < 3.8e6
    file = tmp_path / WEIGHTS
    save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in sizes.items()}, file)
    assert 2 * trained < file.stat().st_size < 8_000_000
