"""The slicer: a grid in reading order and the whole picture last; and how a collator lays its crops out."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.slicing import Slicer
from lora_mm.models.fitting import make_fitter

COLOURS = ["red", "lime", "blue", "white", "black", "yellow"]


def flag(rows: int, columns: int, cell: int = 10) -> Image.Image:
    """Cells of different colours, in reading order."""
    picture = Image.new("RGB", (columns * cell, rows * cell))
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        picture.paste(COLOURS[index], (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell))
    return picture


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (2, 3), (3, 1)])
def test_crops_come_in_reading_order_and_the_whole_last(rows: int, columns: int) -> None:
    slicer = Slicer(rows, columns, window=10)
    views = slicer(flag(rows, columns))
    assert len(views) == slicer.views == rows * columns + 1
    assert {view.size for view in views} == {(10, 10)}
    for index, view in enumerate(views[:-1]):
        assert view.getpixel((5, 5)) == Image.new("RGB", (1, 1), COLOURS[index]).getpixel((0, 0))
    assert list(views[-1].getdata()) == list(flag(rows, columns).resize((10, 10), Image.Resampling.BICUBIC).getdata())


def test_a_picture_is_stretched_to_the_grid() -> None:
    picture = flag(2, 2).resize((60, 14), Image.Resampling.NEAREST)
    for index, view in enumerate(Slicer(2, 2, window=16)(picture)[:-1]):
        assert view.getpixel((8, 8)) == Image.new("RGB", (1, 1), COLOURS[index]).getpixel((0, 0))


def test_crops_stand_in_the_prompt_without_a_break(base_folder: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(base_folder)
    flag(2, 2).save(tmp_path / "flag.png")
    one, two = (
        Example("1", "Which?", "The answer is A.", (tmp_path / "flag.png",)),
        Example("2", "Which two?", "The answer is B.", (tmp_path / "flag.png",) * 2),
    )
    collator = Collator(processor, max_length=1000, slicer=Slicer(2, 2, window=16))
    batch = collator([one, two, Example("3", "No picture", "The answer is C.")])
    placeholder = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert batch["pixel_values"].shape[0] == 15
    assert (batch["input_ids"] == placeholder).sum(dim=1).tolist() == [20, 40, 0]
    row = (batch["input_ids"][0] == placeholder).nonzero().squeeze(1).tolist()
    assert row == list(range(row[0], row[0] + 20))
    assert [sum(collator.length(example)) for example in (one, two)] == batch["attention_mask"].sum(1).tolist()[:2]


def test_a_picture_is_fitted_before_it_is_cut(base_folder: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(base_folder)
    picture = Image.new("RGB", (32, 16), "red")
    picture.save(tmp_path / "wide.png")
    fitter = make_fitter(processor, "pad", one_view=False)
    slicer = Slicer(2, 2, window=16)
    collator = Collator(processor, max_length=1000, slicer=slicer, fitter=fitter)
    pixels = collator([Example("1", "Which?", "This.", (tmp_path / "wide.png",))])["pixel_values"]
    views = slicer(fitter(picture))
    assert torch.equal(pixels, processor.image_processor(views, return_tensors="pt")["pixel_values"])
    colours = [views[0].getpixel((8, y)) for y in (0, 15)]
    assert colours == [fitter.background, (255, 0, 0)], "the upper half of the upper crops is padding"
