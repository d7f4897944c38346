"""An example as the model reads it, and what of it is learnt: decoded from the batch itself. Knows no data set."""

import re
from dataclasses import dataclass

from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.models.forward import IGNORE_INDEX

_REPEATED = re.compile(r"(<[^<>\s]{1,40}>)\1{3,}")


@dataclass(frozen=True, slots=True)
class MaskPiece:
    """Part of an example's text; ``learnt`` if the loss falls on it."""

    text: str
    learnt: bool


def decode_mask(collator: Collator, example: Example) -> list[MaskPiece]:
    """The example's tokens as text, in pieces that are learnt or not; a picture's placeholders are counted."""
    batch = collator([example])
    ids = batch["input_ids"][0].tolist()
    learnt = (batch["labels"][0] != IGNORE_INDEX).tolist()
    pieces: list[MaskPiece] = []
    before, begin = "", 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and learnt[end] == learnt[begin]:
            continue
        # All from the beginning, as some tokenizers write a text's first word otherwise than the same word inside it.
        text = collator.tokenizer.decode(ids[:end])
        pieces.append(MaskPiece(_REPEATED.sub(_counted, text[len(before) :]), learnt[begin]))
        before, begin = text, end
    return pieces


def _counted(found: re.Match[str]) -> str:
    return f"{found[1]}×{len(found[0]) // len(found[1])}"
