"""Records of a pocket problem and of its template. Knows no questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from lora_mm.pocket.scenes import Scene


@dataclass(frozen=True)
class ProblemDraft:
    """A problem without an id, a split and an order of choices.

    Attributes:
        question: the question.
        choices: the choices; the first is right.
        solution: the explanation of the answer.
        hint: the context of the question.
        scene: what the picture shows; None for a question without a picture.
        caption: one sentence about the picture.
    """

    question: str
    choices: tuple[str, ...]
    solution: str
    hint: str = ""
    scene: Scene | None = None
    caption: str = ""


def put_first(options: tuple[str, ...], answer: str) -> tuple[str, ...]:
    """Move the answer to the front.

    Args:
        options: all options.
        answer: the right one.
    """
    return (answer, *(option for option in options if option != answer))


@dataclass(frozen=True)
class Template:
    """A kind of problem.

    Attributes:
        draft: makes one problem from a source of randomness.
        subject: ScienceQA's subject.
        topic: ScienceQA's topic.
        category: ScienceQA's category.
        skill: ScienceQA's skill.
        grades: grades that a problem can have.
        lecture: the lecture of all its problems.
        weight: number of problems, relative to other templates.
    """

    draft: Callable[[Random], ProblemDraft]
    subject: str
    topic: str
    category: str
    skill: str
    grades: tuple[int, ...]
    lecture: str
    weight: int = 1

    @property
    def name(self) -> str:
        """The name of the drafting function."""
        return self.draft.__name__
