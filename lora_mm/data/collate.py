"""Examples to batches: the model's own chat template, tokens, pictures, and labels on the assistant's turns only.

Knows a transformers processor; knows no data set, no adapter and no training.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from lora_mm.data.encode import EncoderRow, encode_rows, get_image_mark
from lora_mm.data.example import Example, ImageSource, Turn, open_image
from lora_mm.data.render import RenderedExample, Renderer, to_message
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError, truncate_faults
from lora_mm.models.forward import IGNORE_INDEX

Overlong = Literal["error", "drop", "truncate"]

_PROBES = ((336, 336), (1000, 250), (90, 700), (640, 320), (320, 480), (32, 32))
"""Sizes of pictures that become equally many tokens where a family always makes as many."""

_OF_TOKENS = frozenset(
    {
        "input_ids",
        "attention_mask",
        "labels",
        "token_type_ids",
        "mm_token_type_ids",
        "cross_attention_mask",
        "image_attention_mask",
    }
)
"""Inputs that are as long as the ids: [batch, tokens, …]."""


@dataclass(frozen=True, slots=True)
class PreparedExamples:
    """What :meth:`Collator.prepare` found.

    Attributes:
        examples: those to train on, in order.
        lengths: their tokens, placeholders included.
        pictured: whether each shows a picture.
        dropped, truncated: ids of the examples that were left out, or whose end will be cut.
        faults: what is wrong with those left out because the base cannot read them.
    """

    examples: Sequence[Example]
    lengths: Sequence[int]
    pictured: Sequence[int]
    dropped: list[str]
    truncated: list[str]
    faults: list[str]


class Subset(Sequence[Example]):
    """Some examples of a sequence, each read when it is asked for."""

    def __init__(self, examples: Sequence[Example], numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return Subset(self.examples, self.numbers[number])
        return self.examples[self.numbers[number]]


class Collator(Renderer):
    """Turns lists of examples into model inputs.

    Args:
        processor: the base's ``AutoProcessor``, with a chat template.
        max_length: tokens of a whole exchange, placeholders included; a longer one loses its end.
        slicer: cuts every picture into crops; their placeholders follow each other without a break. None for whole
            pictures.
        format: as in ``apply_chat_template``; the picture goes before the text.

    Called on examples it gives a training batch, padded on the right: what the processor returns, and ``labels``
    [batch, tokens] that are :data:`IGNORE_INDEX` everywhere but on the assistant's turns, each with the end that the
    template gives it, and an end-of-sequence token behind the last.
    """

    def __init__(self, processor: Any, *, max_length: int, slicer: Slicer | None = None) -> None:
        super().__init__(processor)
        self.max_length = max_length
        self.slicer = slicer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._counted: dict[tuple[tuple[int, int], ...], int] = {}
        self._counts_by_size = len({self._placeholders((size,)) for size in _PROBES}) > 1

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        rendered = [self.rendered(example) for example in examples]
        rows = []
        for example, text in zip(examples, rendered, strict=True):
            rows.append(self._row(text.prompt, text.target, self._spoken(example, text), example))
        batch = encode_rows(self.processor, rows, "right")
        labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
        for row, (example, text) in enumerate(zip(examples, rendered, strict=True)):
            length = int(batch["attention_mask"][row].sum())
            needed = length - text.size + text.spans[text.free][0]
            if length > self.max_length and needed >= self.max_length:
                raise InputError(_no_room(example.id, needed, self.max_length))
            for start, end in self._placed(batch["input_ids"][row, :length], example, text):
                labels[row, start:end] = batch["input_ids"][row, start:end]
        batch["labels"] = labels
        if batch["input_ids"].shape[1] > self.max_length:
            batch = {
                name: value[:, : self.max_length] if name in _OF_TOKENS else value for name, value in batch.items()
            }
        return batch

    def prompts(self, examples: Sequence[Example], begin: str = "") -> dict[str, Tensor]:
        """The user's turns up to where the assistant speaks, padded on the left; ``begin`` opens the answer."""
        rows = []
        for example in examples:
            prompt = self.rendered(example).prompt
            rows.append(self._row(prompt, begin, self.count(prompt, begin)[1], example))
        return encode_rows(self.processor, rows, "left")

    def conversation(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """What was said so far, up to where the assistant speaks, as one row; pictures go before their turn's text."""
        for turn in turns:
            self._check_plain(f"{turn.role}'s turn", turn.text)
        messages = [to_message(turn.role, turn.text, len(turn.images)) for turn in turns]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        shown = Example("conversation", prompt, "", tuple(source for turn in turns for source in turn.images))
        return encode_rows(self.processor, [self._row(prompt, "", 0, shown)], "left")

    def length(self, example: Example) -> tuple[int, int]:
        """Tokens that cannot be cut, and the others.

        The first are those before the assistant's turn, placeholders included; in a conversation, those before the
        first of the assistant's turns that stands behind all pictures.
        """
        text = self.rendered(example)
        needed = text.spans[text.free][0]
        return needed + self._longer_by(example.pictures), text.size - needed

    def prepare(
        self,
        examples: Sequence[Example],
        overlong: Overlong,
        faulty: Literal["error", "drop"] = "error",
    ) -> PreparedExamples:
        """Measure every example, and deal with those over ``max_length`` as ``overlong`` says.

        A picture is never cut: an example that has no room for an answer behind its pictures cannot be truncated, and
        is a fault. Examples are not kept, only their numbers.

        Args:
            faulty: whether an example that cannot be used is an error, or left out.

        Raises:
            InputError: naming the examples that are too long, or that the base cannot read.
        """
        numbers, lengths, pictured = array("I"), array("I"), array("B")
        dropped: list[str] = []
        truncated: list[str] = []
        faults: list[str] = []
        for number in range(len(examples)):
            example = examples[number]
            try:
                needed, rest = self.length(example)
            except InputError as error:
                faults += error.faults
                continue
            total = needed + rest
            if total > self.max_length:
                if overlong == "drop":
                    dropped.append(example.id)
                    continue
                if fault := self.too_long(example.id, needed, total, overlong):
                    faults.append(fault)
                    continue
                truncated.append(example.id)
            numbers.append(number)
            lengths.append(min(total, self.max_length))
            pictured.append(bool(example.pictures))
        if faults and faulty == "error":
            raise InputError(*truncate_faults(faults))
        return PreparedExamples(Subset(examples, numbers), lengths, pictured, dropped, truncated, faults)

    def too_long(self, name: str, needed: int, total: int, overlong: Overlong) -> str | None:
        """What is wrong with an example of so many tokens, of which so many cannot be cut; None if nothing is."""
        if total <= self.max_length or overlong == "drop":
            return None
        if needed >= self.max_length:
            return _no_room(name, needed, self.max_length)
        if overlong == "truncate":
            return None
        return (
            f"{name}: {total} tokens, more than data.max_length={self.max_length}; raise it, or set "
            "data.overlong to drop or truncate"
        )

    def _row(self, prompt: str, answer: str, spoken: int, example: Example) -> EncoderRow:
        pictures = [self._open(example, source) for source in example.pictures]
        if self.slicer:
            mark = get_image_mark(self.processor)
            prompt = prompt.replace(mark, mark * self.slicer.views)
            pictures = [view for picture in pictures for view in self.slicer(picture)]
        return EncoderRow(prompt, answer, spoken, pictures)

    def _placed(self, ids: Tensor, example: Example, text: RenderedExample) -> list[tuple[int, int]]:
        """Where the assistant speaks in a row, whose pictures are spelled out.

        Behind all pictures that is counted from the row's end; before one of them it is looked for, from the end too.
        """
        shift = len(ids) - text.size
        placed = [(start + shift, end + shift) for start, end in text.spans[text.free :]]
        if not text.free:
            return placed
        row, plain = ids.tolist(), self.tokens(text.prompt + text.target)
        bound = placed[0][0]
        for start, end in reversed(text.spans[: text.free]):
            bound = _last_run(row[:bound], plain, start, end)
            if bound < 0:
                raise InputError(f"{example.id}: one of the assistant's turns is not found again among the tokens.")
            placed.insert(0, (bound, bound + end - start))
        return placed

    def _spoken(self, example: Example, text: RenderedExample) -> int:
        """Tokens of a row from the assistant's first turn on."""
        first = next(number for number, turn in enumerate(example.turns) if turn.role == "assistant")
        later = [image for turn in example.turns[first:] for image in turn.images]
        return text.size - text.spans[0][0] + self._longer_by(later)

    def _open(self, example: Example, source: ImageSource) -> Image.Image:
        try:
            return open_image(source)
        except InputError as error:
            raise InputError(*(f"{example.id}: {fault}" for fault in error.faults)) from error

    def _longer_by(self, sources: Sequence[ImageSource]) -> int:
        """Tokens that an example's pictures become, less their marks."""
        if self.slicer:
            views = self.slicer.views * len(sources)
            sizes = [(self.slicer.window, self.slicer.window)] * views
        elif self._counts_by_size:
            sizes = [open_image(source).size for source in sources]
        else:
            sizes = [_PROBES[0]] * len(sources)
        return self._placeholders(tuple(sizes)) - len(sources)

    def _placeholders(self, sizes: tuple[tuple[int, int], ...]) -> int:
        """Tokens that one row's pictures of these sizes (width, height) become, as the processor itself counts them."""
        if sizes and sizes not in self._counted:
            content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": "a"}]
            prompt = self.processor.apply_chat_template([{"role": "user", "content": content}])
            pictures = [Image.new("RGB", size) for size in sizes]
            expanded = encode_rows(self.processor, [EncoderRow(prompt, "", 0, pictures)], "right")
            self._counted[sizes] = expanded["input_ids"].shape[1] - len(self.tokens(prompt)) + len(sizes)
        return self._counted.get(sizes, 0)


def split_into_batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """``examples`` in runs of ``size``; the last may be shorter."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def _last_run(row: list[int], plain: list[int], start: int, end: int) -> int:
    """Where ``plain[start:end]`` stands last in ``row``, with what is before it if that agrees; -1 for nowhere."""
    for before in range(min(8, start), 0, -1):
        run = plain[start - before : end]
        for at in range(len(row) - len(run), -1, -1):
            if row[at : at + len(run)] == run:
                return at + before
    return -1


def _no_room(name: str, before: int, limit: int) -> str:
    return f"{name}: {before} tokens before the answer leave no room for it in data.max_length={limit}"
