"""Examples on one page of HTML: pictures, what is said, what is learnt. One file that loads nothing from elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_mm.atomic import write_atomically
from lora_mm.data.collate import Collator
from lora_mm.data.example import PICTURE, Example, ImageSource, open_image
from lora_mm.data.location import is_own_data
from lora_mm.data.mask import MaskPiece, decode_mask
from lora_mm.data.own_data import find_sources
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.evaluation.html.document import embed_picture, render_document
from lora_mm.evaluation.html.markup import Html, join, tag
from lora_mm.recipe.sections import Recipe

_STYLE = Path(__file__).with_name("preview.css")

THUMBNAIL = 480
"""Longest side of a picture on the page, in pixels: twice what is shown, for sharp screens."""


@dataclass(frozen=True)
class Card:
    """One row on the page: its example, or what is wrong with it.

    Attributes:
        where: file and line, or id.
        pieces: what the model reads of it.
    """

    where: str
    example: Example | None
    pieces: Sequence[MaskPiece]
    faults: Sequence[str]


def write_page(file: Path, recipe: Recipe, split: str, collator: Collator, *, count: int) -> int:
    """Write a page with up to ``count`` rows, spread evenly over the split; gives the number of rows on it."""
    cards = [_card(where, example, faults, collator) for where, example, faults in _rows(recipe, split, count)]
    cards.sort(key=lambda card: not card.faults)  # those come first
    write_atomically(file, _page(recipe, split, cards))
    return len(cards)


def _rows(recipe: Recipe, split: str, count: int) -> Iterator[tuple[str, Example | None, list[str]]]:
    if not is_own_data(recipe.data):
        examples = load_split(recipe, split).examples
        for number in _spread(len(examples), count):
            yield examples[number].id, examples[number], []
        return
    found = find_sources(recipe.data, split)
    for source, rows in found:
        for number in _spread(len(rows), max(1, count // len(found))):
            row = int(rows[number])
            try:
                yield source.rows.where(row), source[row], []
            except InputError as error:
                yield source.rows.where(row), None, list(error.faults)


def _spread(length: int, count: int) -> list[int]:
    return np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()


def _card(where: str, example: Example | None, faults: list[str], collator: Collator) -> Card:
    if example is None:
        return Card(where, None, (), faults)
    try:
        return Card(where, example, decode_mask(collator, example), ())
    except InputError as error:
        return Card(where, example, (), error.faults)


# --- HTML ----------------------------------------------------------------------------------------------------------


def _page(recipe: Recipe, split: str, cards: Sequence[Card]) -> str:
    faulty = sum(bool(card.faults) for card in cards)
    facts = f"{len(cards)} rows of split {split}" + (f", {faulty} of them faulty" if faulty else "")
    about = (
        f"{facts} · read by the template of base ",
        tag("b", recipe.base.model),
        " · ",
        tag("mark", "\xa0learnt\xa0"),
    )
    return render_document(
        recipe.data.where,
        _STYLE,
        tag("h1", recipe.data.where),
        tag("p", about, class_="facts"),
        tag("main", [_article(card) for card in cards]),
    )


def _article(card: Card) -> Html:
    name = card.example.id if card.example else card.where
    beside = tag("span", card.where) if name != card.where else None
    return tag(
        "article",
        tag("header", tag("b", name), beside),
        _said(card.example) if card.example else None,
        _read(card.pieces) if card.pieces else None,
        [tag("p", fault, class_="fault") for fault in card.faults],
        class_="faulty" if card.faults else None,
    )


def _said(example: Example) -> Html:
    """The pictures and the turns."""
    pictures = [_picture(source) for source in example.pictures]
    turns = [
        tag("div", tag("span", turn.role), tag("p", turn.text.replace(PICTURE, "🖼")), class_=f"turn {turn.role}")
        for turn in example.turns
    ]
    return join(tag("figure", pictures) if pictures else None, turns)


def _read(pieces: Sequence[MaskPiece]) -> Html:
    text = [tag("mark", piece.text) if piece.supervised else piece.text for piece in pieces]
    return tag("details", tag("summary", "as the model reads it"), tag("pre", text), open=True)


def _picture(source: ImageSource) -> Html:
    try:
        picture = open_image(source)
    except InputError as error:
        return tag("p", str(error), class_="fault")
    width, height = picture.size
    return tag("img", src=embed_picture(picture, THUMBNAIL, 82), alt="", title=f"{width} × {height}")
