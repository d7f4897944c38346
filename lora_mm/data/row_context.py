"""Settings that all rows of a source share: folder of pictures, question, response format. Knows no columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_mm.data.cells import PictureFolder
from lora_mm.data.example import PICTURE, ImageSource, Turn

Response = Literal["none", "short", "letter"]

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
    """

    pictures: PictureFolder
    question: str | None = None
    response: Response = "none"

    def make_user_turn(self, text: str, pictures: Sequence[ImageSource]) -> Turn:
        """Make a user turn that ends with the instruction for the response format.

        Args:
            text: text of the turn, with :data:`MARK` or ``PICTURE`` where pictures stand. Leading marks are removed,
                because pictures without a mark go before the text anyway.
            pictures: pictures of the turn, in the order of their marks.
        """
        marked = text.replace(MARK, PICTURE).strip()
        without_leading = marked.lstrip(PICTURE + " \t\r\n")
        if PICTURE not in without_leading:
            marked = without_leading
        instruction = RESPONSES[self.response]
        separator = "\n" if instruction and marked else ""
        return Turn("user", f"{marked}{separator}{instruction}", tuple(pictures))


def describe_mark_mismatch(marks: int, pictures: int) -> str:
    """Say that the number of marks in a row differs from the number of its pictures.

    Args:
        marks: number of :data:`MARK` in the row.
        pictures: number of pictures of the row.
    """
    return f"{marks} {MARK} mark{'s' * (marks != 1)} but {pictures} picture{'s' * (pictures != 1)}"
