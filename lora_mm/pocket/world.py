"""Writes a pocket world: problems in ScienceQA's format with drawn pictures, by seed. Needs no torch.

The folder has the official layout: ``problems.json``, ``pid_splits.json``, ``captions.json`` and
``images/<split>/<id>/image.png``. The same seed and size write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError
from lora_mm.pocket.problem import ProblemDraft, Template
from lora_mm.pocket.templates import DETAIL_TEMPLATES, TEMPLATES

WORLDS = {"pocket": TEMPLATES, "pocket-details": DETAIL_TEMPLATES}
"""Worlds by name, each with its templates."""

DEFAULT_PROBLEMS, MAX_PROBLEMS = 6000, 15_000
MIN_PROBLEMS_PER_TEMPLATE = 10

SPLITS = ("train", "val", "test")
SPLIT_SHARES = {"test": 0.15, "val": 0.05}
"""Shares of each template's problems; the others are for training."""

MINI_STEP = 8
"""Every eighth problem of a split is also in its small split (``minitest``, …)."""


@dataclass(frozen=True)
class WorldSummary:
    """Counts of a written world.

    Attributes:
        output: the folder.
        problems: number of problems by split.
        pictures: number of pictures.
        templates: number of templates.
    """

    output: Path
    problems: dict[str, int]
    pictures: int
    templates: int


def make_world(output: Path, *, name: str = "pocket", seed: int = 0, size: int = DEFAULT_PROBLEMS) -> WorldSummary:
    """Write a world to a new folder. A failure leaves nothing behind.

    Args:
        output: folder to write; must not exist or be empty.
        name: name of the world in :data:`WORLDS`.
        seed: seed of the drawing.
        size: number of problems, all splits together.

    Returns:
        Counts of what was written.

    Raises:
        InputError: ``output`` exists and is not an empty folder, or ``size`` is out of range.
        LoraMMError: the folder cannot be written.
    """
    output = Path(output)
    minimum = MIN_PROBLEMS_PER_TEMPLATE * len(WORLDS[name])
    if isinstance(size, bool) or not isinstance(size, int) or not minimum <= size <= MAX_PROBLEMS:
        raise InputError(f"size is {size!r}; a {name} world has {minimum} to {MAX_PROBLEMS} problems.")
    with atomic_folder(output) as folder:
        drawn = draw_problems(seed, size, name)
        _write_problems(folder, drawn, seed)
        pictures = _write_pictures(folder, drawn)
    counts = {split: sum(problem_split == split for problem_split, _, _ in drawn) for split in SPLITS}
    return WorldSummary(output, counts, pictures, len(WORLDS[name]))


def draw_problems(seed: int, size: int, name: str = "pocket") -> list[tuple[str, Template, ProblemDraft]]:
    """Draw distinct problems.

    Args:
        seed: seed of the drawing.
        size: number of problems.
        name: name of the world in :data:`WORLDS`.

    Returns:
        Split, template and draft of each problem, in the order of their ids.
    """
    rng = Random(f"{name} world {seed}")
    drawn: list[tuple[str, Template, ProblemDraft]] = []
    templates = WORLDS[name]
    counts = _allocate(size, [template.weight for template in templates])
    for template, count in zip(templates, counts, strict=True):
        drafts = _draw_distinct(template, count, rng)
        tests, vals = (max(1, round(count * SPLIT_SHARES[split])) for split in ("test", "val"))
        splits = ["test"] * tests + ["val"] * vals + ["train"] * (count - tests - vals)
        drawn += [(split, template, draft) for split, draft in zip(splits, drafts, strict=True)]
    rng.shuffle(drawn)
    return drawn


def _allocate(size: int, weights: Sequence[int]) -> list[int]:
    """Split ``size`` in proportion to the weights; the remainder goes to the first ones, one each."""
    counts = [size * weight // sum(weights) for weight in weights]
    remainder = size - sum(counts)
    return [count + (n < remainder) for n, count in enumerate(counts)]


def describe_content(draft: ProblemDraft) -> tuple[str, str, tuple[str, ...], str]:
    """Get question, hint, set of choices and hash of the picture: problems with equal content are the same problem."""
    picture = hashlib.sha256(draft.scene.draw().tobytes()).hexdigest() if draft.scene else ""
    return draft.question, draft.hint, tuple(sorted(draft.choices)), picture


def _draw_distinct(template: Template, count: int, rng: Random) -> list[ProblemDraft]:
    """Draw ``count`` different problems of one template, with different pictures."""
    drafts: list[ProblemDraft] = []
    seen: set[object] = set()
    for _ in range(50 * count + 1000):
        draft = template.draft(rng)
        content = describe_content(draft)
        picture = content[3]
        if content in seen or (picture and picture in seen):
            continue
        seen |= {content, picture}
        drafts.append(draft)
        if len(drafts) == count:
            return drafts
    raise InputError(f"size: '{template.name}' has fewer than {count} different problems; choose a smaller size.")


class AnswerPositions:
    """Positions for the right answers: every position equally often, for each template and number of choices."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.remaining: dict[tuple[str, int], list[int]] = {}

    def draw(self, template: Template, choices: int) -> int:
        """Draw the index of the right answer of the next problem.

        Args:
            template: the problem's template.
            choices: number of its choices.
        """
        remaining = self.remaining.setdefault((template.name, choices), [])
        if not remaining:
            remaining.extend(range(choices))
            self.rng.shuffle(remaining)
        return remaining.pop()


def _write_problems(folder: Path, drawn: Sequence[tuple[str, Template, ProblemDraft]], seed: int) -> None:
    """Write ``problems.json`` and ``pid_splits.json``."""
    rng = Random(f"pocket letters {seed}")
    positions = {split: AnswerPositions(rng) for split in SPLITS}
    problems: dict[str, dict[str, Any]] = {}
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, (split, template, draft) in enumerate(drawn, start=1):
        wrong = list(draft.choices[1:])
        rng.shuffle(wrong)
        answer = positions[split].draw(template, len(draft.choices))
        problems[str(number)] = {
            "question": draft.question,
            "choices": [*wrong[:answer], draft.choices[0], *wrong[answer:]],
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
        splits[split].append(str(number))
    lists = {
        **splits,
        "trainval": sorted(splits["train"] + splits["val"], key=int),
        **{f"mini{split}": ids[::MINI_STEP] for split, ids in splits.items()},
    }
    _write_json(folder / "problems.json", problems)
    _write_json(folder / "pid_splits.json", lists)


def _write_pictures(folder: Path, drawn: Sequence[tuple[str, Template, ProblemDraft]]) -> int:
    """Write the pictures and ``captions.json``; returns the number of pictures."""
    captions: dict[str, str] = {}
    for number, (split, _, draft) in enumerate(drawn, start=1):
        if draft.scene:
            captions[str(number)] = draft.caption
            picture_folder = folder / "images" / split / str(number)
            picture_folder.mkdir(parents=True)
            draft.scene.draw().save(picture_folder / "image.png")
    _write_json(folder / "captions.json", {"version": "lora-mm pocket world", "captions": captions})
    return len(captions)


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
