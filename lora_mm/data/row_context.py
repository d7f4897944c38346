"""What a source says once for all its rows: folder of pictures, question, response format. Knows no columns."""

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
"""The request that ends every user's turn, in the words of LLaVA-1.5 (Liu et al. 2024, section 3.2)."""

MARK = "<image>"
"""Stands for a picture in a text of a row, as in LLaVA's data."""


@dataclass(frozen=True)
class RowContext:
    """What holds for every row of a source.

    Attributes:
        pictures: finds the pictures that rows name.
        question: the question of rows that have none.
        response: a key of :data:`RESPONSES`.
    """

    pictures: PictureFolder
    question: str | None = None
    response: Response = "none"

    def make_user_turn(self, text: str, pictures: Sequence[ImageSource]) -> Turn:
        """Make a user's turn that ends with the request for the response format.

        Args:
            text: the turn's text, with :data:`MARK` or ``PICTURE`` where pictures stand. Leading marks are removed:
                pictures without a mark go before the text anyway.
            pictures: the turn's pictures, in the order of their marks.
        """
        marked = text.replace(MARK, PICTURE).strip()
        without_leading = marked.lstrip(PICTURE + " \t\r\n")
        if PICTURE not in without_leading:
            marked = without_leading
        request = RESPONSES[self.response]
        separator = "\n" if request and marked else ""
        return Turn("user", f"{marked}{separator}{request}", tuple(pictures))


def describe_mark_mismatch(marks: int, pictures: int) -> str:
    """Say that a row has another number of marks than of pictures.

    Args:
        marks: number of :data:`MARK` in the row.
        pictures: number of pictures of the row.
    """
    return f"{marks} {MARK} mark{'s' * (marks != 1)} but {pictures} picture{'s' * (pictures != 1)}"
