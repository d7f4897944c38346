"""``data.pictures.fit=pad`` on real pictures is LLaVA-1.5's own preprocessing, bit for bit.

LLaVA pads with ``expand2square`` and then runs CLIP's processor at 336 pixels (haotian-liu/LLaVA, llava/mm_utils.py,
``expand2square`` and ``process_images``, c121f04). Both are written anew here, in NumPy and Pillow.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, CLIPImageProcessorPil

from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.models.fitting import make_fitter, make_fitting_processor
from tests.helpers.sample import SAMPLE, needs_sample

pytestmark = needs_sample

SIDE = 336
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def pad_and_encode(file: Path) -> Tensor:
    """A picture as LLaVA-1.5 sees it, [3, 336, 336]."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    height, width, _ = pixels.shape
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = [int(level * 255) for level in (0.48145466, 0.4578275, 0.40821073)]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    resized = Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    levels = (np.asarray(resized) * (1 / 255)).astype(np.float32)
    return torch.from_numpy((levels - MEAN) / DEVIATION).permute(2, 0, 1)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted((SAMPLE / "images").rglob("*.png"))


@pytest.fixture
def processor(base_folder: Path) -> Any:
    """LLaVA-1.5's image processor with a small tokenizer."""
    processor = AutoProcessor.from_pretrained(base_folder)
    processor.patch_size = 14
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    return processor


def test_padded_pictures_are_those_that_llava_was_trained_on(processor: Any, files: list[Path]) -> None:
    assert len(files) == 112
    collator = Collator(processor, max_length=1000, fitter=make_fitter(processor, "pad", one_view=True))
    fitting = make_fitting_processor(processor, "pad")
    assert fitting is not None
    for file in files:
        want = pad_and_encode(file)
        batch = collator([Example(file.parent.name, "Which?", "This.", (file,))])
        assert torch.equal(batch["pixel_values"][0], want), file
        own = fitting.image_processor(Image.open(file).convert("RGB"), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(own, want), file


def test_the_processor_alone_sees_less(processor: Any, files: list[Path]) -> None:
    """The reason for ``pad``: what CLIP's centre crop cuts off, of the area of these pictures."""
    fitter = make_fitter(processor, "processor", one_view=True)
    cut_off = [fitter.measure_cut(Image.open(file).size) for file in files]
    assert np.median(cut_off) == pytest.approx(0.334, abs=0.001)
    assert max(cut_off) == pytest.approx(0.898, abs=0.001)
    collator = Collator(processor, max_length=1000)
    widest = files[int(np.argmax(cut_off))]
    batch = collator([Example("widest", "Which?", "This.", (widest,))])
    assert not torch.equal(batch["pixel_values"][0], pad_and_encode(widest))
