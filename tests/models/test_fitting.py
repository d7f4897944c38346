"""Fitting: what becomes of a picture, how much of it each family sees, and processors that fit by themselves."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, CLIPImageProcessorPil

from lora_mm.models.families import find_family
from lora_mm.models.fitting import AS_IS, Fitter, make_fitter, make_fitting_processor
from lora_mm.models.loading import load_base_config, load_base_processor
from lora_mm.models.picture_fit import Fit, describe_fit
from tests.helpers.bases import PROCESSORS, make_family_base

MEAN = (122, 116, 104)
WIDE, TALL = (48, 16), (16, 48)


def mark(size: tuple[int, int], ends: str = "white") -> Image.Image:
    """A grey picture with ``ends`` in two opposite corners."""
    picture = Image.new("RGB", size, "grey")
    for corner in ((0, 0), (size[0] - 4, size[1] - 4)):
        picture.paste(ends, (*corner, corner[0] + 4, corner[1] + 4))
    return picture


@pytest.fixture
def processor(base_folder: Path) -> Any:
    return AutoProcessor.from_pretrained(base_folder)


def test_a_picture_is_padded_in_its_centre_with_the_mean_colour(processor: Any) -> None:
    pad = make_fitter(processor, "pad", one_view=True)
    for size, before in ((WIDE, (0, 16)), (TALL, (16, 0)), ((20, 17), (0, 1))):
        padded = pad(mark(size))
        assert padded.size == pad.measure(size) == (max(size),) * 2
        assert padded.crop((*before, before[0] + size[0], before[1] + size[1])).tobytes() == mark(size).tobytes()
        colours = {colour for _, colour in padded.getcolors() or []}
        assert colours == {MEAN, (128, 128, 128), (255, 255, 255)}
    square = mark((16, 16))
    assert pad(square) is square


def test_a_picture_is_squashed_to_the_processors_size_or_cropped_to_its_centre(processor: Any) -> None:
    squash, crop = (make_fitter(processor, fit, one_view=True) for fit in ("squash", "crop"))
    assert squash(mark(WIDE)).size == squash.measure(WIDE) == (16, 16)
    assert make_fitter(processor, "squash", one_view=False)(mark(WIDE)).size == (48, 48)
    assert crop(mark(WIDE)).tobytes() == mark(WIDE).crop((16, 0, 32, 16)).tobytes()
    assert crop(mark(TALL)).tobytes() == mark(TALL).crop((0, 16, 16, 32)).tobytes()
    assert AS_IS(mark(WIDE)).size == AS_IS.measure(WIDE) == WIDE


def test_a_very_long_picture_is_shrunk_before_it_becomes_a_square() -> None:
    strip = Image.new("RGB", (16384, 64), "red")
    for fit in ("pad", "squash"):
        assert Fitter(fit)(strip).size == Fitter(fit).measure(strip.size) == (8192, 8192)
    padded = Fitter("pad")(strip)
    assert padded.getbbox() == (0, 4080, 8192, 4112)


def test_a_processor_without_a_mean_pads_in_black(processor: Any) -> None:
    processor.image_processor.image_mean = None
    assert make_fitter(processor, "pad", one_view=True).background == (0, 0, 0)
    processor.image_processor.image_mean = 0.5
    assert make_fitter(processor, "pad", one_view=True).background == (127, 127, 127)


@pytest.mark.parametrize("family", PROCESSORS)
def test_the_ends_of_a_picture_reach_the_model_unless_they_are_said_to_be_cut_off(family: str, tmp_path: Path) -> None:
    folder = str(make_family_base(tmp_path / family, family))
    config = load_base_config(folder)
    processor, facts = load_base_processor(folder, config), find_family(config.model_type)
    one_view = facts.crops == "none" and not facts.packed

    def encode(picture: Image.Image) -> Tensor:
        encoded = processor.image_processor([picture], return_tensors="pt")
        if isinstance(encoded, Tensor):  # idefics
            return encoded
        return torch.as_tensor(encoded["images"][0][0] if family == "fuyu" else encoded["pixel_values"])

    for fit in get_args(Fit):
        fitter = make_fitter(processor, fit, one_view=one_view)
        cut_off = fit == "crop" or (fit == "processor" and family in ("llava", "vipllava"))
        for size in (WIDE, TALL):
            dark, light = (encode(fitter(mark(size, ends))) for ends in ("black", "white"))
            assert torch.equal(dark, light) is cut_off
            assert fitter.measure_cut(size) == pytest.approx(2 / 3 if cut_off else 0)
            shown = fitter.show(mark(size))
            assert ((255, 255, 255) not in {colour for _, colour in shown.getcolors() or []}) is cut_off


def test_what_a_crop_inside_the_resized_picture_leaves() -> None:
    """CLIP's usual pair of sizes: shorter side 256, of which 224 are left."""
    image = CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    fitter = make_fitter(type("Processor", (), {"image_processor": image}), "processor", one_view=True)
    assert fitter.measure_cut((100, 100)) == pytest.approx(1 - (224 / 256) ** 2)
    assert fitter.measure_cut((400, 100)) == pytest.approx(1 - (224 / 256) ** 2 / 4)
    assert fitter.show(Image.new("RGB", (512, 256))).size == (224, 224)


def test_a_processor_that_pads_by_itself_is_saved_and_loaded_by_transformers(processor: Any, tmp_path: Path) -> None:
    pad = make_fitter(processor, "pad", one_view=True)
    fitting = make_fitting_processor(processor, "pad")
    assert fitting is not None
    fitting.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    pictures = [mark(size) for size in (WIDE, TALL, (20, 17), (16, 16))]
    found = loaded.image_processor(pictures, return_tensors="pt")["pixel_values"]
    want = processor.image_processor([pad(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    assert torch.equal(found, want)
    assert not torch.equal(found, processor.image_processor(pictures, return_tensors="pt")["pixel_values"])
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    again = make_fitter(loaded, "processor", one_view=True)
    assert not again.cuts
    assert again.show(mark(WIDE)).size == WIDE


def test_other_fits_and_other_processors_have_no_class_that_does_it(processor: Any, tmp_path: Path) -> None:
    assert make_fitting_processor(processor, "processor") is processor
    assert make_fitting_processor(processor, "squash") is None
    assert make_fitting_processor(processor, "crop") is None
    folder = str(make_family_base(tmp_path / "paligemma", "paligemma"))
    assert make_fitting_processor(load_base_processor(folder, load_base_config(folder)), "pad") is None


def test_every_fit_but_the_processors_own_has_a_description() -> None:
    assert [fit for fit in get_args(Fit) if describe_fit(fit) is None] == ["processor"]
