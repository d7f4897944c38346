"""Writes a pocket world: ScienceQA-format problems with drawn pictures, by seed. Knows no model and needs no torch.

The folder is laid out as the official one: ``problems.json``, ``pid_splits.json``, ``captions.json`` and
``images/<split>/<id>/image.png``. The same seed and size write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError
from lora_mm.pocket.templates import DETAILS, TEMPLATES, Draft, Template

WORLDS = {"pocket": TEMPLATES, "pocket-details": DETAILS}
"""Worlds by name: the questions that each asks."""
SIZE = 6000
EACH, LARGEST = 10, 15_000  # problems of each of a world's kinds at the least, and in all at the most
SHARES = {"test": 0.15, "val": 0.05}  # of each template's problems; the rest is train
MINI = 8  # every eighth problem of a split is also in its small twin


@dataclass(frozen=True)
class Summary:
    """What was written, for a line on the screen."""

    output: Path
    seed: int
    problems: dict[str, int]  # by split
    pictures: int
    templates: int


def make_world(output: Path, *, world: str = "pocket", seed: int = 0, size: int = SIZE) -> Summary:
    """Writes ``size`` problems of a row of WORLDS to the new folder ``output``; nothing is left when it fails.

    Raises:
        InputError: ``output`` is there and not an empty folder, or ``size`` is out of range.
        LoraMMError: the folder cannot be written.
    """
    output = Path(output)
    least = EACH * len(WORLDS[world])
    if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= LARGEST:
        raise InputError(f"size is {size!r}; a {world} world has {least} to {LARGEST} problems.")
    with atomic_folder(output) as folder:
        summary = _write(folder, world, seed, size)
    return Summary(output, **summary)


def draw_problems(seed: int, size: int, world: str = "pocket") -> list[tuple[str, Template, Draft]]:
    """``size`` different problems, each with its split, in the order of their ids."""
    rng = Random(f"{world} world {seed}")
    chosen: list[tuple[str, Template, Draft]] = []
    templates = WORLDS[world]
    counts = _shares(size, [template.weight for template in templates])
    for template, count in zip(templates, counts, strict=True):
        drafts = _different(template, count, rng)
        tests, vals = (max(1, round(count * SHARES[split])) for split in ("test", "val"))
        splits = ["test"] * tests + ["val"] * vals + ["train"] * (count - tests - vals)
        chosen += [(split, template, draft) for split, draft in zip(splits, drafts, strict=True)]
    rng.shuffle(chosen)
    return chosen


def _shares(size: int, weights: Sequence[int]) -> list[int]:
    """``size`` parted by weight; what does not come out even goes to the first, one each."""
    counts = [size * weight // sum(weights) for weight in weights]
    left = size - sum(counts)
    return [count + (n < left) for n, count in enumerate(counts)]


def describe_content(draft: Draft) -> tuple[str, str, tuple[str, ...], str]:
    """What makes a problem the same problem: question, hint, set of choices and drawn picture."""
    drawn = hashlib.sha256(draft.scene.draw().tobytes()).hexdigest() if draft.scene else ""
    return draft.question, draft.hint, tuple(sorted(draft.choices)), drawn


def _different(template: Template, count: int, rng: Random) -> list[Draft]:
    """``count`` drafts of one template, no two alike, no picture used twice."""
    drafts: list[Draft] = []
    seen: set[object] = set()
    for _ in range(50 * count + 1000):
        draft = template.make(rng)
        key = describe_content(draft)
        if key in seen or (key[3] and key[3] in seen):
            continue
        seen |= {key, key[3]}
        drafts.append(draft)
        if len(drafts) == count:
            return drafts
    raise InputError(f"size: '{template.name}' has fewer than {count} different problems; choose a smaller size.")


class Decks:
    """Places for the right answer: every letter as often as the others, for each template and number of choices."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.decks: dict[tuple[str, int], list[int]] = {}

    def place(self, template: Template, choices: int) -> int:
        """The next right answer's index."""
        deck = self.decks.setdefault((template.name, choices), [])
        if not deck:
            deck.extend(range(choices))
            self.rng.shuffle(deck)
        return deck.pop()


def _write(folder: Path, world: str, seed: int, size: int) -> dict[str, Any]:
    """Writes everything under ``folder``; returns the summary's fields."""
    drawn = draw_problems(seed, size, world)
    rng = Random(f"pocket letters {seed}")
    decks = {split: Decks(rng) for split in ("train", "val", "test")}
    problems: dict[str, dict[str, Any]] = {}
    captions: dict[str, str] = {}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (split, template, draft) in enumerate(drawn, start=1):
        key = str(number)
        others = list(draft.choices[1:])
        rng.shuffle(others)
        answer = decks[split].place(template, len(draft.choices))
        problems[key] = {
            "question": draft.question,
            "choices": [*others[:answer], draft.choices[0], *others[answer:]],
            "answer": answer,
            "hint": draft.hint,
            "image": "image.png" if draft.scene else None,
            "task": "closed choice",
            "grade": f"grade{rng.choice(template.grades)}",
            "subject": template.subject,
            "topic": template.topic,
            "category": template.category,
            "skill": template.skill,
            "lecture": template.lecture,
            "solution": draft.solution,
            "split": split,
        }
        splits[split].append(key)
        if draft.scene:
            captions[key] = draft.caption
            place = folder / "images" / split / key
            place.mkdir(parents=True)
            draft.scene.draw().save(place / "image.png")
    lists = {
        **splits,
        "trainval": sorted(splits["train"] + splits["val"], key=int),
        **{f"mini{split}": ids[::MINI] for split, ids in splits.items()},
    }
    for name, value in (
        ("problems.json", problems),
        ("pid_splits.json", lists),
        ("captions.json", {"version": "lora-mm pocket world", "captions": captions}),
    ):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    counts = Counter(p["split"] for p in problems.values())
    return {
        "seed": seed,
        "problems": {split: counts[split] for split in ("train", "val", "test")},
        "pictures": len(captions),
        "templates": len(WORLDS[world]),
    }
