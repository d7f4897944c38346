"""Settings that all rows of a source share: folder of pictures, question, response format. Knows no columns."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_mm.data.cells import PictureFolder
from lora_mm.data.example import PICTURE, ImageSource, Turn

Response = Literal["none", "short", "letter"]
AnswerForm = Literal["index", "letter", "text"]

RESPONSES: Mapping[str, str] = {
    "none": "",
    "short": "Answer the question using a single word or phrase.",
    "letter": "Answer with the option's letter from the given choices directly.",
}
"""Response format → the instruction at the end of every user turn, as in LLaVA-1.5 (Liu et al. 2024, section 3.2)."""

MARK = "<image>"
"""Marks the place of a picture in a row's text, as in LLaVA's data."""


@dataclass(frozen=True)
class RowContext:
    """Settings that all rows of a source share.

    Attributes:
        pictures: finds the pictures that rows name.
        question: question for rows that have none.
        response: response format, a key of :data:`RESPONSES`.
        answer: how the rows of multiple choice name the right choice; None if in any form that is not ambiguous.
    """

    pictures: PictureFolder
    question: str | None = None
    response: Response = "none"
    answer: AnswerForm | None = None

    def make_user_turn(self, text: str, pictures: Sequence[ImageSource]) -> Turn:
        """Make a user turn, whose text ends with the instruction for the response format.

        The text has no spaces or line breaks at its ends, nor between its ends and marks there, as in LLaVA's
        ``preprocess_multimodal`` (haotian-liu/LLaVA, llava/train/train.py, commit c121f04): a template that puts all
        pictures first would keep them. Other than LLaVA, a mark stays in its place.

        Args:
            text: text of the turn, with :data:`MARK` or ``PICTURE`` where pictures stand. If all marks are leading,
                they are removed, because pictures without a mark go before the text anyway.
            pictures: pictures of the turn, in the order of their marks.
        """
        marked = text.replace(MARK, PICTURE).strip()
        body = marked.strip(PICTURE + string.whitespace)
        leading, _, trailing = marked.partition(body) if body else (marked, "", "")
        words = "\n".join(part for part in (body, RESPONSES[self.response]) if part)
        before, after = (PICTURE * marks.count(PICTURE) for marks in (leading, trailing))
        return Turn("user", f"{before}{words}{after}" if PICTURE in body + after else words, tuple(pictures))


def describe_mark_mismatch(marks: int, pictures: int) -> str:
    """Say that the number of marks in a row differs from the number of its pictures.

    Args:
        marks: number of :data:`MARK` in the row.
        pictures: number of pictures of the row.
    """
    return f"{marks} {MARK} mark{'s' * (marks != 1)} but {pictures} picture{'s' * (pictures != 1)}"
