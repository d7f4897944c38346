"""Shows examples of a split on one HTML page: pictures, turns, and which tokens are supervised. Loads no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_mm.atomic import check_writable, write_atomically
from lora_mm.data.collate import Collator
from lora_mm.data.example import PICTURE, Example, ImageSource, Turn
from lora_mm.data.location import is_own_data
from lora_mm.data.mask import MaskPiece, decode_mask
from lora_mm.data.own_data import find_sources
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.html.picture import Picture, embed_picture
from lora_mm.html.render import render_template
from lora_mm.recipe.sections import Recipe

THUMBNAIL = 480
"""Longest side of an embedded picture in pixels: twice its size on the page, for sharp screens."""
_QUALITY = 82
"""JPEG quality."""


@dataclass(frozen=True, slots=True)
class ExampleCard:
    """One row of the data on the page.

    Attributes:
        name: id of the example; file and line if the row cannot be read.
        where: file and line; for ScienceQA the id.
        pictures: the example's pictures, in order, as the model sees them.
        turns: its turns, with a picture sign where each picture stands.
        pieces: the text as the model reads it.
        faults: what is wrong with the row.
    """

    name: str
    where: str
    pictures: Sequence[Picture] = ()
    turns: Sequence[Turn] = ()
    pieces: Sequence[MaskPiece] = ()
    faults: Sequence[str] = ()


def write_page(file: Path, recipe: Recipe, split: str, collator: Collator, *, count: int) -> int:
    """Write a page with rows spread evenly over a split; faulty rows come first.

    Args:
        file: HTML file to write.
        recipe: names the data and the base.
        split: name of the split.
        collator: reads the examples as the base does.
        count: maximum number of rows.

    Returns:
        The number of rows on the page.

    Raises:
        LoraMMError: the data cannot be read, or the file cannot be written.
    """
    check_writable(file)
    cards = [_make_card(where, example, faults, collator) for where, example, faults in _sample(recipe, split, count)]
    cards.sort(key=lambda card: not card.faults)
    write_atomically(file, _render(recipe, split, cards))
    return len(cards)


def _sample(recipe: Recipe, split: str, count: int) -> Iterator[tuple[str, Example | None, list[str]]]:
    """Yield file and line, example and faults of up to ``count`` rows."""
    if not is_own_data(recipe.data):
        examples = load_split(recipe, split).examples
        for number in _spread(len(examples), count):
            yield examples[number].id, examples[number], []
        return
    sources = find_sources(recipe.data, split).opened
    for source, rows in sources:
        for number in _spread(len(rows), max(1, count // len(sources))):
            row = int(rows[number])
            try:
                yield source.rows.where(row), source[row], []
            except InputError as error:
                yield source.rows.where(row), None, list(error.faults)


def _spread(length: int, count: int) -> list[int]:
    """Return up to ``count`` indices, evenly spaced from 0 to ``length - 1``."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()


def _make_card(where: str, example: Example | None, faults: Sequence[str], collator: Collator) -> ExampleCard:
    if example is None:
        return ExampleCard(where, where, faults=faults)
    pieces: Sequence[MaskPiece] = ()
    try:
        pieces = decode_mask(collator, example)
    except InputError as error:
        faults = error.faults
    turns = [Turn(turn.role, turn.text.replace(PICTURE, "🖼")) for turn in example.turns]
    pictures = [picture for source in example.pictures for picture in _embed(source, collator)]
    return ExampleCard(example.id, where, pictures, turns, pieces, faults)


def _embed(source: ImageSource, collator: Collator) -> list[Picture]:
    try:
        views = collator.show(source)
    except InputError as error:
        return [Picture(note=str(error))]
    return [embed_picture(view, THUMBNAIL, _QUALITY) for view in views]


def _render(recipe: Recipe, split: str, cards: Sequence[ExampleCard]) -> str:
    faulty = sum(bool(card.faults) for card in cards)
    return render_template(
        "jobs/preview.html",
        title=recipe.data.location,
        counts=f"{len(cards)} rows of split {split}" + (f", {faulty} of them faulty" if faulty else ""),
        base=recipe.base.model,
        cards=cards,
    )
