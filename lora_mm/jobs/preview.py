"""Examples on one page of HTML: pictures, what is said, what is learnt. One file that loads nothing from elsewhere."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lora_mm.data.collate import Collator
from lora_mm.data.example import PICTURE, Example, ImageSource, open_image
from lora_mm.data.mask import Piece, decoded
from lora_mm.errors import InputError
from lora_mm.jobs.check import places
from lora_mm.jobs.splits import is_own, load_split
from lora_mm.recipe import Recipe

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
    pieces: Sequence[Piece]
    faults: Sequence[str]


def write_page(file: Path, recipe: Recipe, split: str, collator: Collator, *, count: int) -> int:
    """Write a page with up to ``count`` rows, spread evenly over the split; gives the number of rows on it."""
    cards = [_card(where, example, faults, collator) for where, example, faults in _rows(recipe, split, count)]
    cards.sort(key=lambda card: not card.faults)  # those come first
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_page(recipe, split, cards), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output {file}: cannot be written: {error.strerror or error}.") from error
    return len(cards)


def _rows(recipe: Recipe, split: str, count: int) -> Iterator[tuple[str, Example | None, list[str]]]:
    if not is_own(recipe.data):
        examples = load_split(recipe, split).examples
        for number in _spread(len(examples), count):
            yield examples[number].id, examples[number], []
        return
    found = list(places(recipe, split))
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
        return Card(where, example, decoded(collator, example), ())
    except InputError as error:
        return Card(where, example, (), error.faults)


# --- HTML ----------------------------------------------------------------------------------------------------------


def _page(recipe: Recipe, split: str, cards: Sequence[Card]) -> str:
    faulty = sum(bool(card.faults) for card in cards)
    facts = f"{len(cards)} rows of split {split}" + (f", {faulty} of them faulty" if faulty else "")
    filling = {
        "title": html.escape(recipe.data.where),
        "facts": html.escape(facts),
        "base": html.escape(recipe.base.model),
        "cards": "\n".join(_article(card) for card in cards),
    }
    page = _PAGE
    for name, text in filling.items():
        page = page.replace(f"[[{name}]]", text)
    return page


def _article(card: Card) -> str:
    parts = []
    if card.example:
        pictures = "".join(_picture(source) for source in card.example.pictures)
        parts.append(f"<figure>{pictures}</figure>" if pictures else "")
        for turn in card.example.turns:
            text = html.escape(turn.text.replace(PICTURE, "🖼"))
            parts.append(f'<div class="turn {turn.role}"><span>{turn.role}</span><p>{text}</p></div>')
    if card.pieces:
        texts = [(html.escape(piece.text), piece.learnt) for piece in card.pieces]
        read = "".join(f"<mark>{text}</mark>" if learnt else text for text, learnt in texts)
        parts.append(f"<details open><summary>as the model reads it</summary><pre>{read}</pre></details>")
    parts += [f'<p class="fault">{html.escape(fault)}</p>' for fault in card.faults]
    name = card.example.id if card.example else card.where
    beside = f"<span>{html.escape(card.where)}</span>" if name != card.where else ""
    kind = ' class="faulty"' if card.faults else ""
    return f"<article{kind}><header><b>{html.escape(name)}</b>{beside}</header>{''.join(parts)}</article>"


def _picture(source: ImageSource) -> str:
    try:
        picture = open_image(source)
    except InputError as error:
        return f'<p class="fault">{html.escape(str(error))}</p>'
    width, height = picture.size
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=82)
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="" title="{width} × {height}">'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>[[title]]</title>
<style>
:root { color-scheme: light dark; --page: #f5f4f0; --card: #fff; --ink: #1d1d1f; --soft: #6f6d67; --line: #e4e2da;
  --learnt: #c9efd3; --learnt-ink: #0b4a21; --fault: #b3261e; --user: #eef1f8 }
@media (prefers-color-scheme: dark) { :root { --page: #17181a; --card: #212326; --ink: #ececea; --soft: #9a9a96;
  --line: #34363a; --learnt: #1f4d30; --learnt-ink: #d5f5de; --fault: #ff8a80; --user: #2a2d35 } }
* { box-sizing: border-box }
body { margin: 0; padding: 2.5rem clamp(1rem, 4vw, 3.5rem); background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { margin: 0; font-size: 1.5rem; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere }
.facts { margin: .3rem 0 2rem; color: var(--soft) }
main { columns: 20rem; column-gap: 1.25rem }
article { break-inside: avoid; margin: 0 0 1.25rem; padding: 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px }
article.faulty { border-color: var(--fault) }
header { display: flex; gap: .6rem; justify-content: space-between; align-items: baseline; margin-bottom: .7rem;
  font-size: .82rem; overflow-wrap: anywhere }
header span { color: var(--soft) }
figure { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0 0 .8rem }
figure img { max-width: 100%; max-height: 240px; border-radius: 8px; border: 1px solid var(--line); display: block }
.turn { margin: .5rem 0 }
.turn span { font-size: .7rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft) }
.turn p { margin: .1rem 0 0; padding: .5rem .75rem; border-radius: 8px; background: var(--user);
  white-space: pre-wrap; overflow-wrap: anywhere }
.turn.assistant p { background: var(--learnt); color: var(--learnt-ink) }
details { margin-top: .9rem; font-size: .8rem }
summary { cursor: pointer; color: var(--soft) }
pre { margin: .4rem 0 0; padding: .6rem .75rem; border: 1px dashed var(--line); border-radius: 8px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 12px/1.6 ui-monospace, "DejaVu Sans Mono", monospace;
  color: var(--soft) }
mark { background: var(--learnt); color: var(--learnt-ink); border-radius: 3px; padding: .05em 0 }
.fault { margin: .6rem 0 0; color: var(--fault); font-weight: 500; overflow-wrap: anywhere }
</style></head><body>
<h1>[[title]]</h1>
<p class="facts">[[facts]] · read by the template of base <b>[[base]]</b> · <mark>&nbsp;learnt&nbsp;</mark></p>
<main>
[[cards]]
</main></body></html>
"""
