"""Texts and their pictures to what a model takes, through the base's own processor. Knows no example.

Most processors take rows with and without pictures side by side. Some were written for one picture and a question: of
an exchange with its answer they would make other tokens than the model was trained on (a newline behind the answer, a
picture in every row). For those the row is put together here, from the processor's own parts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

Side = Literal["left", "right"]


@dataclass(frozen=True)
class EncoderRow:
    """One row of a batch.

    Attributes:
        prompt: as the chat template wrote it, with one mark (:func:`get_image_mark`) a picture.
        answer: what the assistant says, or how it begins.
        spoken: tokens of the row that are the assistant's; they are its last.
        pictures: in the order of their marks.
    """

    prompt: str
    answer: str
    spoken: int
    pictures: Sequence[Image.Image] = ()


def encode_rows(processor: Any, rows: Sequence[EncoderRow], side: Side) -> dict[str, Tensor]:
    """The model inputs of one batch, shorter rows padded on ``side``."""
    by_hand = _BY_HAND.get(type(processor).__name__)
    texts = [row.prompt + row.answer for row in rows]
    layout: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": side}
    layout["add_special_tokens"] = not any(starts_with_bos(processor, row.prompt) for row in rows)
    if by_hand is None:
        images = {"images": [list(row.pictures) for row in rows]} if any(row.pictures for row in rows) else {}
        return dict(processor(text=texts, **images, **layout))
    texts = [by_hand.written(processor, text, row.pictures) for text, row in zip(texts, rows, strict=True)]
    made = processor.tokenizer(texts, **layout)
    batch = {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
    return {**batch, **by_hand.inputs(processor, batch, rows)}


def starts_with_bos(processor: Any, text: str) -> bool:
    """Whether the chat template has written the token with which a text begins; the tokenizer is to add no second."""
    begin = processor.tokenizer.bos_token
    return begin is not None and begin in text


def get_image_mark(processor: Any) -> str:
    """What stands for a picture in a text."""
    mark = getattr(processor, "image_token", None)
    return str(mark or processor.tokenizer.convert_ids_to_tokens(processor.image_token_id))


# --- by hand -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ByHand:
    """How a batch is put together where its processor does not.

    Attributes:
        written: the text with what the tokenizer is to read in place of each picture's mark.
        inputs: what the model gets beside ids and mask.
    """

    written: Callable[[Any, str, Sequence[Image.Image]], str]
    inputs: Callable[[Any, dict[str, Tensor], Sequence[EncoderRow]], dict[str, Tensor]]


def _pictures(rows: Sequence[EncoderRow]) -> list[Image.Image]:
    return [picture for row in rows for picture in row.pictures]


def _pixels(processor: Any, pictures: Sequence[Image.Image]) -> Tensor:
    made = processor.image_processor(list(pictures), return_tensors="pt")
    return made if isinstance(made, Tensor) else made["pixel_values"]


def _answers(batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> Tensor:
    """Which tokens the assistant speaks, ``[batch, tokens]``."""
    mask = batch["attention_mask"]
    left = mask.flip(1).cumsum(dim=1).flip(1)  # of each token and those after it
    return (mask == 1) & (left <= torch.tensor([row.spoken for row in rows])[:, None])


def _paligemma_text(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    mark = get_image_mark(processor)
    return text.replace(mark, mark * processor.image_seq_length)


def _paligemma_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    # What is of type 0 is read both ways: an answer of type 0 would see the tokens that it is to predict.
    inputs = {"token_type_ids": _answers(batch, rows).long()}
    pictures = _pictures(rows)
    return {**inputs, "pixel_values": _pixels(processor, pictures)} if pictures else inputs


def _blip_text(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    mark = get_image_mark(processor)
    return text.replace(mark, mark * processor.num_query_tokens)


def _blip_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    # The model asks for a picture in every batch, and takes one that no token stands for.
    return {"pixel_values": _pixels(processor, _pictures(rows) or [Image.new("RGB", (32, 32))])}


def _instructblip_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    """The Q-Former reads the user's turn too, once for each of its pictures."""
    drop = [get_image_mark(processor), processor.tokenizer.bos_token or ""]
    asked = []
    for row in rows:
        text = row.prompt
        for mark in drop:
            text = text.replace(mark, "")
        asked += [text.strip()] * len(row.pictures)
    made = processor.qformer_tokenizer(asked or [""], return_tensors="pt", padding=True, truncation=True)
    return {
        **_blip_inputs(processor, batch, rows),
        "qformer_input_ids": made["input_ids"],
        "qformer_attention_mask": made["attention_mask"],
    }


_FAKE = "<fake_token_around_image>"


def _idefics_text(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    mark = get_image_mark(processor)
    return text.replace(mark, _FAKE + mark + _FAKE).replace(_FAKE + _FAKE, _FAKE)


def _idefics_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    """Pictures [batch, most of a row, …], zeros where a row has fewer; a token looks at the last one before it."""
    most = max(1, *(len(row.pictures) for row in rows))
    side = processor.image_processor.image_size
    pixels = torch.zeros(len(rows), most, 3, side, side)
    for number, row in enumerate(rows):
        if row.pictures:
            pixels[number, : len(row.pictures)] = _pixels(processor, row.pictures)
    seen = (batch["input_ids"] == processor.image_token_id).cumsum(dim=1)
    return {
        "pixel_values": pixels,
        "image_attention_mask": (seen.unsqueeze(-1) == torch.arange(1, most + 1)).long(),
    }


def _fuyu_text(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    """A picture is its lines of patches, each with a newline of its own."""
    mark, line = get_image_mark(processor), processor.image_newline_token
    first, *others = text.split(mark)
    grids = [_fuyu_patches(processor, picture).shape for picture in pictures]
    runs = [(mark * columns + line) * rows for rows, columns, _ in grids]
    return first + "".join(run + other for run, other in zip(runs, others, strict=True))


def _fuyu_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    patches = [_fuyu_patches(processor, picture).flatten(0, 1) for picture in _pictures(rows)]
    return {"pixel_values": torch.cat(patches)} if patches else {}


def _fuyu_patches(processor: Any, picture: Image.Image) -> Tensor:
    """[rows, columns, patch height × patch width × channels], as far as the picture reaches in its padding."""
    made, patch = processor.image_processor([picture]), processor.image_processor.patch_size
    rows = math.ceil(made["image_unpadded_heights"][0][0] / patch["height"])
    columns = math.ceil(made["image_unpadded_widths"][0][0] / patch["width"])
    pixels = torch.as_tensor(made["images"][0][0])[:, : rows * patch["height"], : columns * patch["width"]]
    blocks = pixels.unflatten(1, (rows, patch["height"])).unflatten(3, (columns, patch["width"]))
    return blocks.permute(1, 3, 2, 4, 0).flatten(2)


_BY_HAND = {
    "PaliGemmaProcessor": _ByHand(_paligemma_text, _paligemma_inputs),
    "Blip2Processor": _ByHand(_blip_text, _blip_inputs),
    "InstructBlipProcessor": _ByHand(_blip_text, _instructblip_inputs),
    "IdeficsProcessor": _ByHand(_idefics_text, _idefics_inputs),
    "FuyuProcessor": _ByHand(_fuyu_text, _fuyu_inputs),
}
