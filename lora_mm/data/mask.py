"""Decodes an example into pieces of text that are supervised or not. Knows no data set."""

import re
from dataclasses import dataclass

from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.models.forward import IGNORE_INDEX

_REPEATED_TOKEN = re.compile(r"(<[^<>\s]{1,40}>)\1{3,}")


@dataclass(frozen=True, slots=True)
class MaskPiece:
    """A piece of an example's text.

    Attributes:
        text: text of the piece.
        supervised: whether the loss covers it.
    """

    text: str
    supervised: bool


def decode_mask(collator: Collator, example: Example) -> list[MaskPiece]:
    """Decode an example's tokens into pieces of text that are supervised or not.

    A run of placeholders is written as one placeholder and their number.

    Args:
        collator: the collator of the base.
        example: the example to decode.
    """
    batch = collator([example])
    ids = batch["input_ids"][0].tolist()
    supervised = (batch["labels"][0] != IGNORE_INDEX).tolist()
    pieces: list[MaskPiece] = []
    decoded, begin = "", 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and supervised[end] == supervised[begin]:
            continue
        # Decode from the beginning: some tokenizers decode the first word of a text differently.
        text = collator.tokenizer.decode(ids[:end])
        pieces.append(MaskPiece(_REPEATED_TOKEN.sub(_write_count, text[len(decoded) :]), supervised[begin]))
        decoded, begin = text, end
    return pieces


def _write_count(run: re.Match[str]) -> str:
    return f"{run[1]}×{len(run[0]) // len(run[1])}"
