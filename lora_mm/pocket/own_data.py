"""Draws pocket data in the formats of your own data: JSON lines beside pictures, by seed. Needs no torch.

``train.jsonl`` and ``test.jsonl`` name pictures by their path in the folder. The same seed and size write the same
bytes, and no picture is in both splits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageFont

from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError
from lora_mm.pocket import picture_questions
from lora_mm.pocket.drawing import INK, PAPER_COLOURS, PICTURE_SIZE, new_picture
from lora_mm.pocket.problem import ProblemDraft
from lora_mm.pocket.scenes import Columns, Jars, Spots, Tube, Web
from lora_mm.pocket.tables import CREATURES

DEFAULT_ROWS, MIN_ROWS, MAX_ROWS = 1000, 100, 15_000

TEST_SHARE = 0.2
"""Share of the rows that go to the test split."""

Fields = dict[str, Any]
"""A row without its id and its picture."""


def _draw_caption(rng: Random) -> tuple[Image.Image, Fields]:
    """Draw a picture and write one sentence about it, in a style that the pocket base has not seen."""
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


def _draw_short_answers(rng: Random) -> tuple[Image.Image, Fields]:
    """Draw a question with the answers of ten people; some answers are shorter, and one is wrong."""
    questions = (picture_questions.cardinal, picture_questions.food_web, picture_questions.graph)
    draft = rng.choice(questions)(rng)
    short, wrong = _shorten(draft.choices[0]), _shorten(rng.choice(draft.choices[1:]))
    answers = [draft.choices[0]] * 6 + [short] * 3 + [wrong]
    rng.shuffle(answers)
    return _draw_scene(draft), {"question": draft.question, "answers": answers}


def _shorten(answer: str) -> str:
    """``the red island`` → ``red``."""
    return answer.removeprefix("the ").removesuffix(" island").removesuffix(" shop")


def _draw_chart_choice(rng: Random) -> tuple[Image.Image, Fields]:
    """Draw a chart or diagram, and a multiple-choice question about it."""
    questions = (picture_questions.graph, picture_questions.thermometer, picture_questions.food_web)
    draft = rng.choice(questions)(rng)
    choices = list(draft.choices)
    rng.shuffle(choices)
    return _draw_scene(draft), {
        "context": draft.hint,
        "question": draft.question,
        "choices": choices,
        "answer": choices.index(draft.choices[0]),
    }


def _draw_label(rng: Random) -> tuple[Image.Image, Fields]:
    """Draw a label with one word to read."""
    word = rng.choice(CREATURES)
    image, pen = new_picture(rng.choice(PAPER_COLOURS))
    font = ImageFont.load_default(rng.randint(30, 36))
    left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
    x = rng.randint(8, int(PICTURE_SIZE - 8 - (right - left))) - left
    y = rng.randint(20, int(PICTURE_SIZE - 20 - (bottom - top))) - top
    pen.rectangle((x + left - 5, y + top - 6, x + right + 5, y + bottom + 6), outline=INK, width=2)
    pen.text((x, y), word, font=font, fill=INK)
    return image, {"question": "What is written on the label?", "answer": word}


def _draw_scene(draft: ProblemDraft) -> Image.Image:
    assert draft.scene is not None, "questions about pictures have a scene"
    return draft.scene.draw()


@dataclass(frozen=True)
class OwnDataSet:
    """A data set of rows in one format.

    Attributes:
        draw: draws one picture and the other fields of its row.
        image_column: the column that holds the path of the picture.
    """

    draw: Callable[[Random], tuple[Image.Image, Fields]]
    image_column: str = "image"


OWN_DATA_SETS: Mapping[str, OwnDataSet] = {
    "pocket-captions": OwnDataSet(_draw_caption, "file_name"),
    "pocket-short-answers": OwnDataSet(_draw_short_answers),
    "pocket-charts": OwnDataSet(_draw_chart_choice),
    "pocket-labels": OwnDataSet(_draw_label),
}
"""Data sets by name."""


def make_own_data(output: Path, name: str, *, seed: int = 0, size: int = DEFAULT_ROWS) -> dict[str, int]:
    """Write a data set of :data:`OWN_DATA_SETS` to a new folder. A failure leaves nothing behind.

    Args:
        output: folder to write; must not exist or be empty.
        name: name of the data set.
        seed: seed of the drawing.
        size: number of rows, both splits together.

    Returns:
        Split to number of rows.

    Raises:
        InputError: ``output`` exists and is not an empty folder, or ``size`` is out of range.
        LoraMMError: the folder cannot be written.
    """
    if not MIN_ROWS <= size <= MAX_ROWS:
        raise InputError(f"size is {size}; {name} has {MIN_ROWS} to {MAX_ROWS} rows.")
    with atomic_folder(output) as folder:
        return _write(folder, name, seed, size)


def _write(folder: Path, name: str, seed: int, size: int) -> dict[str, int]:
    """Write both splits to ``folder``; returns the rows of each."""
    rng, data_set = Random(f"{name} {seed}"), OWN_DATA_SETS[name]
    (folder / "images").mkdir(parents=True)
    rows: list[Fields] = []
    seen: set[str] = set()
    while len(rows) < size:
        image, fields = data_set.draw(rng)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest in seen:  # rare: scenes have many positions and sizes
            continue
        seen.add(digest)
        path = f"images/{len(rows) + 1:05}.png"
        image.save(folder / path)
        rows.append({"id": f"{name}-{len(rows) + 1}", data_set.image_column: path, **fields})
    tests = round(size * TEST_SHARE)
    splits = {"train": rows[tests:], "test": rows[:tests]}
    for split, split_rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split_rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return {split: len(split_rows) for split, split_rows in splits.items()}
