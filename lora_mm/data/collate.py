"""Examples to batches: the model's own chat template, tokens, pictures, and labels on the answer only.

Knows a transformers processor; knows no data set, no adapter and no training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from lora_mm.data.encode import Row, begun, encode, image_mark
from lora_mm.data.example import Example, ImageSource, Turn, open_image
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError, shortened
from lora_mm.models.forward import IGNORED

_KEPT = 20_000
"""Rendered exchanges that a collator keeps: some tens of megabytes of text."""

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
class Prepared:
    """What :meth:`Collator.prepare` found.

    Attributes:
        examples: those to train on, in order.
        lengths: their tokens, placeholders included.
        dropped, truncated: ids of the examples that were left out, or whose answer will be cut.
    """

    examples: list[Example]
    lengths: list[int]
    dropped: list[str]
    truncated: list[str]


class Collator:
    """Turns lists of examples into model inputs.

    Args:
        processor: the base's ``AutoProcessor``, with a chat template.
        max_length: tokens of a whole exchange, placeholders included; a longer one loses the end of its answer.
        slicer: cuts every picture into crops; their placeholders follow each other without a break. None for whole
            pictures.
        format: as in ``apply_chat_template``; the picture goes before the text.

    Called on examples it gives a training batch, padded on the right: what the processor returns, and ``labels``
    [batch, tokens] that are :data:`IGNORED` everywhere but on the assistant's turn and its end-of-sequence token.
    """

    def __init__(self, processor: Any, *, max_length: int, slicer: Slicer | None = None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = max_length
        self.slicer = slicer
        if not getattr(processor, "chat_template", None):
            raise InputError("The base's processor has no chat template; point base.model at one that has.")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._rendered: dict[Example, tuple[str, str, int]] = {}
        self._counted: dict[tuple[tuple[int, int], ...], int] = {}
        self._counts_by_size = len({self._placeholders((size,)) for size in _PROBES}) > 1

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        turns = [self._turns(example) for example in examples]
        rows = [self._row(*turn, example) for turn, example in zip(turns, examples, strict=True)]
        batch = encode(self.processor, rows, "right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, ((*_, answer), example) in enumerate(zip(turns, examples, strict=True)):
            length = int(batch["attention_mask"][row].sum())
            labels[row, length - answer : length] = batch["input_ids"][row, length - answer : length]
            if length > self.max_length and length - answer >= self.max_length:
                raise InputError(_no_room(example.id, length - answer, self.max_length))
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
            prompt = self._turns(example)[0]
            rows.append(self._row(prompt, begin, self._answer_tokens(prompt, begin), example))
        return encode(self.processor, rows, "left")

    def conversation(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """What was said so far, up to where the assistant speaks, as one row; pictures go before their turn's text."""
        for turn in turns:
            self._check_plain(f"{turn.role}'s turn", turn.text)
        messages = [_message(turn.role, turn.text, len(turn.images)) for turn in turns]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        shown = Example("conversation", prompt, "", tuple(source for turn in turns for source in turn.images))
        return encode(self.processor, [self._row(prompt, "", 0, shown)], "left")

    def render(self, example: Example) -> tuple[str, str]:
        """The exchange as text: everything before the assistant's turn, and the turn with its end-of-sequence token.

        Raises:
            InputError: when the template writes the conversation otherwise once the answer is there.
        """
        self._check_plain(example.id, example.prompt + "\n" + example.target)
        user = _message("user", example.prompt, len(example.images))
        assistant = _message("assistant", example.target)
        prompt = self.processor.apply_chat_template([user], add_generation_prompt=True)
        whole = self.processor.apply_chat_template([user, assistant])
        if not whole.startswith(prompt):
            raise InputError(
                f"{example.id}: with the answer, the base's chat template no longer begins as it does without; "
                "the answer cannot be told from the prompt."
            )
        return prompt, _ended(whole[len(prompt) :], self.tokenizer.eos_token)

    def _check_plain(self, name: str, text: str) -> None:
        """Raise InputError for text that the tokenizer would read as something else."""
        for token in self.tokenizer.all_special_tokens:
            if token in text:
                raise InputError(f"{name}: the text holds {token!r}, which the base does not read as text; reword it.")

    def length(self, example: Example) -> tuple[int, int]:
        """Tokens before the assistant's turn, placeholders included, and tokens of the turn."""
        prompt, target, answer = self._turns(example)
        whole = len(self.tokens(prompt + target))
        return whole - answer + self._longer_by(example.images), answer

    def prepare(self, examples: Sequence[Example], overlong: Literal["error", "drop", "truncate"]) -> Prepared:
        """Measure every example, and deal with those over ``max_length`` as ``overlong`` says.

        A picture is never cut: an example whose prompt alone fills ``max_length`` cannot be truncated, and is a fault.

        Raises:
            InputError: naming the examples that are too long.
        """
        kept: list[tuple[Example, int]] = []
        dropped: list[str] = []
        truncated: list[str] = []
        faults: list[str] = []
        for example in examples:
            try:
                before, answer = self.length(example)
            except InputError as error:
                faults += error.faults
                continue
            total = before + answer
            if total <= self.max_length:
                kept.append((example, total))
            elif overlong == "drop":
                dropped.append(example.id)
            elif before >= self.max_length:
                faults.append(_no_room(example.id, before, self.max_length))
            elif overlong == "truncate":
                truncated.append(example.id)
                kept.append((example, self.max_length))
            else:
                faults.append(
                    f"{example.id}: {total} tokens, more than data.max_length={self.max_length}; raise it, or set "
                    "data.overlong to drop or truncate"
                )
        if faults:
            raise InputError(*shortened(faults))
        return Prepared([example for example, _ in kept], [length for _, length in kept], dropped, truncated)

    def _row(self, prompt: str, answer: str, spoken: int, example: Example) -> Row:
        pictures = [open_image(source) for source in example.images]
        if self.slicer:
            mark = image_mark(self.processor)
            prompt = prompt.replace(mark, mark * self.slicer.views)
            pictures = [view for picture in pictures for view in self.slicer(picture)]
        return Row(prompt, answer, spoken, pictures)

    def tokens(self, text: str) -> list[int]:
        """Ids of a rendered exchange, each picture's mark one of them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not begun(self.processor, text))["input_ids"]
        return ids

    def _turns(self, example: Example) -> tuple[str, str, int]:
        """:meth:`render`, and the tokens of the assistant's turn: kept, as every epoch asks for them again."""
        found = self._rendered.get(example)
        if found is None:
            prompt, target = self.render(example)
            found = prompt, target, self._answer_tokens(prompt, target)
            if len(self._rendered) < _KEPT:
                self._rendered[example] = found
        return found

    def _answer_tokens(self, prompt: str, target: str) -> int:
        """Tokens of the assistant's turn: those after the longest run that prompt and whole exchange share.

        The exchange is tokenised whole, as the model would write it; a token that spans the border is the answer's.
        """
        before, whole = self.tokens(prompt), self.tokens(prompt + target)
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        return len(whole) - shared

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
            expanded = encode(self.processor, [Row(prompt, "", 0, pictures)], "right")
            self._counted[sizes] = expanded["input_ids"].shape[1] - len(self.tokens(prompt)) + len(sizes)
        return self._counted.get(sizes, 0)


def batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """``examples`` in runs of ``size``; the last may be shorter."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def _message(role: str, text: str, pictures: int = 0) -> dict[str, Any]:
    """One turn as ``apply_chat_template`` takes it."""
    return {"role": role, "content": [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]}


def _ended(target: str, end: str | None) -> str:
    """The assistant's turn up to its end-of-sequence token, which is added where the template writes none."""
    if end is None:
        return target.rstrip()
    return target[: target.index(end)] + end if end in target else target.rstrip() + end


def _no_room(name: str, before: int, limit: int) -> str:
    return f"{name}: {before} tokens before the answer leave no room for it in data.max_length={limit}"
