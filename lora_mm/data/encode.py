"""Turns texts and their pictures into model inputs, with the base's processor. Knows no example.

Most processors accept batches of rows with and without pictures. Some were written for one picture and a question: for
a question with its answer they would make other tokens than the model was trained on (a newline after the answer, a
picture in every row). For these, :data:`_FAMILY_FORMS` makes the batch from the processor's tokenizer and image
processor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from lora_mm.errors import InputError

Side = Literal["left", "right"]


@dataclass(frozen=True)
class EncoderRow:
    """One row of a batch.

    Attributes:
        prompt: text as rendered by the chat template, with one mark (:func:`get_image_mark`) for each picture.
        answer: the assistant's last turn, or its beginning.
        suffix: number of tokens from the assistant's first turn to the end of the row.
        pictures: pictures in the order of their marks.
        questions: for each picture, the text of the turn that has it.
    """

    prompt: str
    answer: str
    suffix: int
    pictures: Sequence[Image.Image] = ()
    questions: Sequence[str] = ()


def encode_rows(processor: Any, rows: Sequence[EncoderRow], side: Side) -> dict[str, Tensor]:
    """Make the model inputs of one batch.

    Args:
        processor: the base's processor.
        rows: rows of the batch.
        side: side on which shorter rows are padded.
    """
    texts = [row.prompt + row.answer for row in rows]
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": side}
    options["add_special_tokens"] = not any(starts_with_bos(processor, row.prompt) for row in rows)
    form = _FAMILY_FORMS.get(type(processor).__name__)
    if form is None:
        images = {"images": [list(row.pictures) for row in rows]} if any(row.pictures for row in rows) else {}
        return dict(processor(text=texts, **images, **options))
    texts = [form.expand_marks(processor, text, row.pictures) for text, row in zip(texts, rows, strict=True)]
    encoded = processor.tokenizer(texts, **options)
    batch = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    return {**batch, **form.make_inputs(processor, batch, rows)}


def starts_with_bos(processor: Any, text: str) -> bool:
    """Whether the chat template wrote the beginning-of-sequence token, so that the tokenizer must not add another.

    Args:
        processor: the base's processor.
        text: text as rendered by the chat template.
    """
    bos = processor.tokenizer.bos_token
    return bos is not None and bos in text


def check_question(processor: Any, question: str) -> None:
    """Check that a Q-Former that reads questions can read this one whole; other processors have none.

    Args:
        processor: the base's processor.
        question: text of a turn that has a picture.

    Raises:
        InputError: the text is too long.
    """
    tokenizer = getattr(processor, "qformer_tokenizer", None)
    if tokenizer is None:
        return
    count, limit = len(tokenizer(question)["input_ids"]), tokenizer.model_max_length
    if count > limit:
        raise InputError(
            f"a turn with a picture has {count:,} tokens for the Q-Former, which reads {limit:,}; shorten it"
        )


def get_image_mark(processor: Any) -> str:
    """Return the token that marks a picture in a text."""
    mark = getattr(processor, "image_token", None)
    return str(mark or processor.tokenizer.convert_ids_to_tokens(processor.image_token_id))


# --- families whose processor cannot encode an answer ----------------------------------------------------------------


@dataclass(frozen=True)
class _FamilyForm:
    """How to make a family's batch from its processor's tokenizer and image processor.

    Attributes:
        expand_marks: (processor, text, pictures) → text for the tokenizer, with placeholders in place of marks.
        make_inputs: (processor, ids and mask, rows) → the model's other inputs.
    """

    expand_marks: Callable[[Any, str, Sequence[Image.Image]], str]
    make_inputs: Callable[[Any, dict[str, Tensor], Sequence[EncoderRow]], dict[str, Tensor]]


def _list_pictures(rows: Sequence[EncoderRow]) -> list[Image.Image]:
    return [picture for row in rows for picture in row.pictures]


def _encode_pixels(processor: Any, pictures: Sequence[Image.Image]) -> Tensor:
    encoded = processor.image_processor(list(pictures), return_tensors="pt")
    return encoded if isinstance(encoded, Tensor) else encoded["pixel_values"]


def _find_suffixes(batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> Tensor:
    """Return whether each token belongs to its row's suffix, [batch, tokens]."""
    mask = batch["attention_mask"]
    remaining = mask.flip(1).cumsum(dim=1).flip(1)  # number of tokens from each token to the end
    return (mask == 1) & (remaining <= torch.tensor([row.suffix for row in rows])[:, None])


def _expand_paligemma(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    mark = get_image_mark(processor)
    return text.replace(mark, mark * processor.image_seq_length)


def _make_paligemma_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    # Attention among tokens of type 0 is bidirectional: an answer of type 0 would see the tokens that it predicts.
    inputs = {"token_type_ids": _find_suffixes(batch, rows).long()}
    pictures = _list_pictures(rows)
    return {**inputs, "pixel_values": _encode_pixels(processor, pictures)} if pictures else inputs


def _expand_blip(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    mark = get_image_mark(processor)
    return text.replace(mark, mark * processor.num_query_tokens)


def _make_blip_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    # The model needs a picture in every batch, and accepts one without placeholders.
    return {"pixel_values": _encode_pixels(processor, _list_pictures(rows) or [Image.new("RGB", (32, 32))])}


def _make_instructblip_inputs(
    processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]
) -> dict[str, Tensor]:
    """Encode for the Q-Former too: for each picture the turn that has it, never a later turn, nor an answer."""
    questions = [question for row in rows for question in row.questions]
    for question in questions:
        check_question(processor, question)
    # A batch without pictures has one blank picture, and so one question. It has a token, because without any the
    # Q-Former's text layers get no gradient.
    encoded = processor.qformer_tokenizer(questions or ["?"], return_tensors="pt", padding=True)
    return {
        **_make_blip_inputs(processor, batch, rows),
        "qformer_input_ids": encoded["input_ids"],
        "qformer_attention_mask": encoded["attention_mask"],
    }


_FAKE = "<fake_token_around_image>"


def _expand_idefics(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    mark = get_image_mark(processor)
    return text.replace(mark, _FAKE + mark + _FAKE).replace(_FAKE + _FAKE, _FAKE)


def _make_idefics_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    """Make pixels [batch, maximum per row, …], padded with zeros; a token attends to the last picture before it."""
    most_pictures = max(1, *(len(row.pictures) for row in rows))
    side = processor.image_processor.image_size
    pixels = torch.zeros(len(rows), most_pictures, 3, side, side)
    for number, row in enumerate(rows):
        if row.pictures:
            pixels[number, : len(row.pictures)] = _encode_pixels(processor, row.pictures)
    seen = (batch["input_ids"] == processor.image_token_id).cumsum(dim=1)
    return {
        "pixel_values": pixels,
        "image_attention_mask": (seen.unsqueeze(-1) == torch.arange(1, most_pictures + 1)).long(),
    }


def _expand_fuyu(processor: Any, text: str, pictures: Sequence[Image.Image]) -> str:
    """Expand a picture's mark to its lines of patches, each with a newline token."""
    mark, line = get_image_mark(processor), processor.image_newline_token
    first, *others = text.split(mark)
    grids = [_cut_fuyu_patches(processor, picture).shape for picture in pictures]
    runs = [(mark * columns + line) * rows for rows, columns, _ in grids]
    return first + "".join(run + other for run, other in zip(runs, others, strict=True))


def _make_fuyu_inputs(processor: Any, batch: dict[str, Tensor], rows: Sequence[EncoderRow]) -> dict[str, Tensor]:
    patches = [_cut_fuyu_patches(processor, picture).flatten(0, 1) for picture in _list_pictures(rows)]
    return {"pixel_values": torch.cat(patches)} if patches else {}


def _cut_fuyu_patches(processor: Any, picture: Image.Image) -> Tensor:
    """Cut a picture without its padding into patches [rows, columns, patch height × patch width × channels]."""
    encoded, patch = processor.image_processor([picture]), processor.image_processor.patch_size
    rows = math.ceil(encoded["image_unpadded_heights"][0][0] / patch["height"])
    columns = math.ceil(encoded["image_unpadded_widths"][0][0] / patch["width"])
    pixels = torch.as_tensor(encoded["images"][0][0])[:, : rows * patch["height"], : columns * patch["width"]]
    blocks = pixels.unflatten(1, (rows, patch["height"])).unflatten(3, (columns, patch["width"]))
    return blocks.permute(1, 3, 2, 4, 0).flatten(2)


_FAMILY_FORMS = {
    "PaliGemmaProcessor": _FamilyForm(_expand_paligemma, _make_paligemma_inputs),
    "Blip2Processor": _FamilyForm(_expand_blip, _make_blip_inputs),
    "InstructBlipProcessor": _FamilyForm(_expand_blip, _make_instructblip_inputs),
    "IdeficsProcessor": _FamilyForm(_expand_idefics, _make_idefics_inputs),
    "FuyuProcessor": _FamilyForm(_expand_fuyu, _make_fuyu_inputs),
}
"""Processor class → how to make its family's batch."""
