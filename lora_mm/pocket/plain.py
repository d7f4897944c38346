"""Pocket data in the plain layouts that people's own data has: JSON lines beside pictures, by seed. Needs no torch.

``train.jsonl`` and ``test.jsonl`` name pictures by their path in the folder. The same seed and size write the same
bytes, and no picture is in both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError
from lora_mm.pocket import questions
from lora_mm.pocket.drawing import INK, PAPER, SIDE, Columns, Jars, Spots, Tube, Web
from lora_mm.pocket.questions import Draft
from lora_mm.pocket.tables import CREATURES

SIZE, LEAST, LARGEST = 1000, 100, 15_000
TEST_SHARE = 0.2
"""Of the rows, those to be asked."""

Fields = dict[str, Any]
Drawn = tuple[Image.Image, Fields]


def _caption(rng: Random) -> Drawn:
    """A picture and one sentence on it, in another style than any the pocket base has seen."""
    scene = rng.choice((Columns, Jars, Spots, Tube, Web)).random(rng)
    match scene:
        case Columns():
            text = f"A bar chart: {scene.extreme('tallest')} is the tallest, {scene.extreme('shortest')} the shortest."
        case Jars():
            more = {"left": "the left one is fuller", "right": "the right one is fuller", "same": "both are as full"}
            text = f"A pair of jars with {scene.colour} dots: {more[scene.more]}."
        case Spots():
            text = f"A sea map: {scene.extreme('top')} in the north, {scene.extreme('bottom')} in the south."
        case Tube():
            text = f"A thermometer: it stands at {scene.level} of 4."
        case _:
            text = f"A food chain: {', then '.join(name for name, _ in scene.chain)}."
    return scene.draw(), {"text": text}


def _short_answer(rng: Random) -> Drawn:
    """A question with ten people's answers, of whom some are brief and one is wrong."""
    draft = rng.choice((questions.cardinal, questions.food_web, questions.graph))(rng)
    brief, wrong = _bare(draft.choices[0]), _bare(rng.choice(draft.choices[1:]))
    answers = [draft.choices[0]] * 6 + [brief] * 3 + [wrong]
    rng.shuffle(answers)
    return _picture(draft), {"question": draft.question, "answers": answers}


def _bare(words: str) -> str:
    """``the red island`` as people in a hurry say it."""
    return words.removeprefix("the ").removesuffix(" island").removesuffix(" shop")


def _chart_choice(rng: Random) -> Drawn:
    """A chart or a diagram, and what can be read off it as one of several choices."""
    draft = rng.choice((questions.graph, questions.thermometer, questions.food_web))(rng)
    choices = list(draft.choices)
    rng.shuffle(choices)
    return _picture(draft), {
        "context": draft.hint,
        "question": draft.question,
        "choices": choices,
        "answer": choices.index(draft.choices[0]),
    }


def _label(rng: Random) -> Drawn:
    """A label with a word on it, to be read."""
    word = rng.choice(CREATURES)
    image = Image.new("RGB", (SIDE, SIDE), rng.choice(PAPER))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(rng.randint(30, 36))
    left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
    x = rng.randint(8, int(SIDE - 8 - (right - left))) - left
    y = rng.randint(20, int(SIDE - 20 - (bottom - top))) - top
    pen.rectangle((x + left - 5, y + top - 6, x + right + 5, y + bottom + 6), outline=INK, width=2)
    pen.text((x, y), word, font=font, fill=INK)
    return image, {"question": "What is written on the label?", "answer": word}


def _picture(draft: Draft) -> Image.Image:
    assert draft.scene is not None
    return draft.scene.draw()


@dataclass(frozen=True)
class Kind:
    """Rows of one kind.

    Attributes:
        draw: a picture and the row's other fields.
        image: the column that names the picture.
    """

    draw: Callable[[Random], Drawn]
    image: str = "image"


PLAIN_KINDS: Mapping[str, Kind] = {
    "pocket-captions": Kind(_caption, "file_name"),
    "pocket-short-answers": Kind(_short_answer),
    "pocket-charts": Kind(_chart_choice),
    "pocket-labels": Kind(_label),
}
"""Data sets by name."""


def make_rows(output: Path, name: str, *, seed: int = 0, size: int = SIZE) -> dict[str, int]:
    """Write ``size`` rows of a kind of :data:`PLAIN_KINDS` to the new folder ``output``; nothing is left when it fails.

    Returns:
        Split → rows.

    Raises:
        InputError: ``output`` is there and not an empty folder, or ``size`` is out of range.
        LoraMMError: the folder cannot be written.
    """
    if not LEAST <= size <= LARGEST:
        raise InputError(f"size is {size}; {name} has {LEAST} to {LARGEST} rows.")
    with atomic_folder(output) as folder:
        return _write(folder, name, seed, size)


def _write(folder: Path, name: str, seed: int, size: int) -> dict[str, int]:
    rng, kind = Random(f"{name} {seed}"), PLAIN_KINDS[name]
    (folder / "images").mkdir(parents=True)
    rows: list[Fields] = []
    seen: set[str] = set()
    while len(rows) < size:
        image, fields = kind.draw(rng)
        drawn = hashlib.sha256(image.tobytes()).hexdigest()
        if drawn in seen:  # scenes have so many places and sizes that this is rare
            continue
        seen.add(drawn)
        place = f"images/{len(rows) + 1:05}.png"
        image.save(folder / place)
        rows.append({"id": f"{name}-{len(rows) + 1}", kind.image: place, **fields})
    tests = round(size * TEST_SHARE)
    splits = {"train": rows[tests:], "test": rows[:tests]}
    for split, part in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return {split: len(part) for split, part in splits.items()}
