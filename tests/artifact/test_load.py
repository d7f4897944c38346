"""lora_mm.load: a saved adapter on its base in one call, by whatever names the two are given."""

import shutil
from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import lora_mm
from lora_mm.adapters.kernel_choice import HasKernelChoice
from lora_mm.artifact.files import PREPROCESSING, RECIPE
from lora_mm.artifact.folder import save_adapter
from lora_mm.artifact.packing import pack_adapter
from lora_mm.errors import InputError
from lora_mm.models.fitting import make_fitter
from lora_mm.models.loading import load_base
from lora_mm.models.picture_fit import Fit
from tests.helpers.tiny import make_base, perturb, tiny_batch, tiny_model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(**tiny_batch(), use_cache=False).logits


@pytest.fixture(scope="module")
def saved(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """An adapter folder as a run writes it, and the logits of its model."""
    base = load_base(str(base_folder))
    model = lora_mm.attach(base.model, ["mma"], train=["connector"]).eval()
    perturb(model)
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    save_adapter(model, folder, base=base, recipe="name: tiny\n")
    return folder, logits(model)


def load_model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder)


def test_base_and_adapter_by_their_folders(base_folder: Path, saved: tuple[Path, Tensor]) -> None:
    model = lora_mm.load(str(base_folder), saved[0], dtype="float32")
    assert isinstance(model, peft.PeftModel)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(logits(model.cpu()), saved[1])


def test_a_packed_file_on_a_loaded_model(
    base_folder: Path, saved: tuple[Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    file = tmp_path / "adapter.tar.gz"
    pack_adapter(saved[0], file)
    assert torch.equal(logits(lora_mm.load(load_model(base_folder), str(file))), saved[1])


def test_a_model_with_adapters_keeps_its_choice_of_kernels(base_folder: Path, saved: tuple[Path, Tensor]) -> None:
    model = lora_mm.load(load_model(base_folder), saved[0], kernels="torch")
    lora_mm.load(model, saved[0], adapter_name="second")
    choices = {module.kernels for module in model.modules() if isinstance(module, HasKernelChoice)}
    assert choices == {"torch"}


@pytest.mark.parametrize("adapters", [["mma"], ["lora"]])
def test_what_attach_and_save_pretrained_wrote(adapters: list[str], base_folder: Path, tmp_path: Path) -> None:
    model = lora_mm.attach(load_model(base_folder), adapters, train=["connector"]).eval()
    perturb(model)
    model.save_pretrained(str(tmp_path))
    assert not (tmp_path / RECIPE).exists()
    assert not (tmp_path / PREPROCESSING).exists()
    assert torch.equal(logits(lora_mm.load(load_model(base_folder), tmp_path)), logits(model))
    assert torch.equal(logits(lora_mm.load(base_folder, tmp_path, dtype="float32").cpu()), logits(model))


def test_a_second_adapter_beside_the_first(base_folder: Path, saved: tuple[Path, Tensor]) -> None:
    first = lora_mm.load(load_model(base_folder), saved[0])
    both = lora_mm.load(first, saved[0], adapter_name="second")
    assert both is first
    assert set(both.peft_config) == {"default", "second"}
    both.set_adapter("second")
    assert torch.equal(logits(both), saved[1])


def test_another_base_is_refused_and_can_be_accepted(saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=7)
    for base in (str(other), load_model(other)):
        with pytest.raises(InputError, match="trained on base"):
            lora_mm.load(base, saved[0])
    with pytest.warns(UserWarning, match="Accepted"):
        lora_mm.load(load_model(other), saved[0], accept=["base"])


def test_a_model_whose_files_are_not_here_is_taken_as_it_is(saved: tuple[Path, Tensor]) -> None:
    assert torch.equal(logits(lora_mm.load(tiny_model(), saved[0])), saved[1])


def test_a_folder_without_an_adapter_is_refused(base_folder: Path, saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it lacks adapter_config.json, adapter_model.safetensors\."):
        lora_mm.load(str(base_folder), tmp_path)
    with pytest.raises(InputError, match="No adapter folder 'nowhere'"):
        lora_mm.load(str(base_folder), "nowhere")
    folder = shutil.copytree(saved[0], tmp_path / "with pickle")
    (folder / "weights.bin").write_bytes(b"")
    with pytest.raises(InputError, match="holds a pickle"):
        lora_mm.load(str(base_folder), folder)


# --- the processor for it --------------------------------------------------------------------------------------------


def test_the_processor_fits_pictures_as_in_training(base_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(base_folder))
    model = lora_mm.attach(base.model, ["mma"])
    wide = Image.new("RGB", (32, 8), "red")

    def encode(processor: Any, picture: Image.Image = wide) -> Tensor:
        return processor.image_processor([picture], return_tensors="pt")["pixel_values"]

    for fit in get_args(Fit):
        save_adapter(model, tmp_path / fit, base=base, recipe="name: tiny\n", fit=fit)
    assert torch.equal(encode(lora_mm.load_processor(base_folder, tmp_path / "processor")), encode(base.processor))
    padded = make_fitter(base.processor, "pad", one_view=True)(wide)
    found = encode(lora_mm.load_processor(base_folder, tmp_path / "pad"))
    assert torch.equal(found, encode(base.processor, padded))
    assert not torch.equal(found, encode(base.processor))
    with pytest.raises(
        InputError, match=r"cropped to the central square \(data.pictures.fit=crop\), which no processor"
    ):
        lora_mm.load_processor(base_folder, tmp_path / "crop")


def test_the_processor_of_an_adapter_that_peft_saved_is_the_bases(base_folder: Path, tmp_path: Path) -> None:
    lora_mm.attach(tiny_model(), ["mma"]).save_pretrained(str(tmp_path / "mine"))
    processor = lora_mm.load_processor(base_folder, tmp_path / "mine")
    assert processor.image_processor.to_dict() == load_base(str(base_folder)).processor.image_processor.to_dict()
