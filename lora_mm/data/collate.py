"""Examples to batches: the model's own chat template, tokens, pictures, and labels on the assistant's turns only.

Knows a transformers processor; knows no data set, no adapter and no training.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from lora_mm.data.encode import Row, begun, encode, image_mark
from lora_mm.data.example import PICTURE, Example, ImageSource, Turn, open_image
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError, shortened
from lora_mm.models.forward import IGNORED

Overlong = Literal["error", "drop", "truncate"]

_KEPT = 20_000
"""Rendered exchanges that a collator keeps: some tens of megabytes of text."""

_OTHER = "\ue000"
"""A character of private use, put in place of a turn's text to see where it stands."""

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


@dataclass(frozen=True, slots=True)
class Rendered:
    """An exchange as the chat template writes it.

    Attributes:
        prompt: everything before the assistant's last turn, a mark for each picture.
        target: that turn, with its end.
        size: tokens of both, each mark one of them.
        spans: of these tokens, from where to where the assistant speaks.
        free: number of the first span behind all pictures.
    """

    prompt: str
    target: str
    size: int
    spans: tuple[tuple[int, int], ...]
    free: int


class _Picked(Sequence[Example]):
    """Some examples of a sequence, each read when it is asked for."""

    def __init__(self, examples: Sequence[Example], numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return _Picked(self.examples, self.numbers[number])
        return self.examples[self.numbers[number]]


class Collator:
    """Turns lists of examples into model inputs.

    Args:
        processor: the base's ``AutoProcessor``, with a chat template.
        max_length: tokens of a whole exchange, placeholders included; a longer one loses its end.
        slicer: cuts every picture into crops; their placeholders follow each other without a break. None for whole
            pictures.
        format: as in ``apply_chat_template``; the picture goes before the text.

    Called on examples it gives a training batch, padded on the right: what the processor returns, and ``labels``
    [batch, tokens] that are :data:`IGNORED` everywhere but on the assistant's turns, each with the end that the
    template gives it, and an end-of-sequence token behind the last.
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
        self._rendered: dict[tuple[tuple[str, str, int], ...], Rendered] = {}
        self._counted: dict[tuple[tuple[int, int], ...], int] = {}
        self._counts_by_size = len({self._placeholders((size,)) for size in _PROBES}) > 1

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        rendered = [self.rendered(example) for example in examples]
        rows = []
        for example, text in zip(examples, rendered, strict=True):
            rows.append(self._row(text.prompt, text.target, self._spoken(example, text), example))
        batch = encode(self.processor, rows, "right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
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
            rows.append(self._row(prompt, begin, self._tokens_of(prompt, begin)[1], example))
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
        """The exchange as text: what is before the assistant's last turn, and that turn with its end-of-sequence token.

        Raises:
            InputError: when the template writes the conversation otherwise once the answer is there.
        """
        self._check_plain(example.id, "\n".join(turn.text for turn in example.turns))
        for turn in example.turns:
            if (marks := turn.text.count(PICTURE)) not in (0, len(turn.images)):
                raise InputError(f"{example.id}: {marks} places for {len(turn.images)} pictures in one turn.")
        messages = [_message(turn.role, turn.text, len(turn.images)) for turn in example.turns]
        try:
            prompt = self.processor.apply_chat_template(messages[:-1], add_generation_prompt=True)
            whole = self.processor.apply_chat_template(messages)
        except TemplateError as error:
            raise InputError(f"{example.id}: the base's chat template refuses the conversation: {error}") from error
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
    ) -> Prepared:
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
            raise InputError(*shortened(faults))
        return Prepared(_Picked(examples, numbers), lengths, pictured, dropped, truncated, faults)

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

    def _row(self, prompt: str, answer: str, spoken: int, example: Example) -> Row:
        pictures = [self._open(example, source) for source in example.pictures]
        if self.slicer:
            mark = image_mark(self.processor)
            prompt = prompt.replace(mark, mark * self.slicer.views)
            pictures = [view for picture in pictures for view in self.slicer(picture)]
        return Row(prompt, answer, spoken, pictures)

    def tokens(self, text: str) -> list[int]:
        """Ids of a rendered exchange, each picture's mark one of them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not begun(self.processor, text))["input_ids"]
        return ids

    def rendered(self, example: Example) -> Rendered:
        """:meth:`render`, and which tokens the assistant speaks: kept, as every epoch asks for them again."""
        key = tuple((turn.role, turn.text, len(turn.images)) for turn in example.turns)
        found = self._rendered.get(key)
        if found is None:
            prompt, target = self.render(example)
            size, spoken = self._tokens_of(prompt, target)
            last = (size - spoken, size)
            shown = max((number for number, turn in enumerate(example.turns) if turn.images), default=0)
            free = sum(turn.role == "assistant" for turn in example.turns[:shown])
            found = Rendered(prompt, target, size, (*self._earlier(example, prompt, target), last), free)
            if len(self._rendered) < _KEPT:
                self._rendered[key] = found
        return found

    def _earlier(self, example: Example, prompt: str, target: str) -> list[tuple[int, int]]:
        """Tokens of what the assistant said before its last turn, each turn with what the template ends turns with.

        Where a turn's text stands is found by rendering the conversation with another text in its place: what stays
        the same around it is the template's. So it is found whatever the template does to texts.
        """
        spoke = [number for number, turn in enumerate(example.turns) if turn.role == "assistant"]
        if len(spoke) == 1:
            return []
        messages = [_message(turn.role, turn.text, len(turn.images)) for turn in example.turns]
        whole = self.processor.apply_chat_template(messages)
        *places, (start, end) = [self._place(example.id, messages, number, whole) for number in spoke]
        lead, close = whole[len(prompt) : start], whole[end:]
        offsets = self._offsets(prompt + target)
        spans = []
        for start, end in places:
            if lead and whole[:start].endswith(lead):
                start -= len(lead)
            ending = _shared(close, whole[end:]).rstrip()
            eos = self.tokenizer.eos_token
            end += ending.index(eos) + len(eos) if eos and eos in ending else len(ending)
            inside = [number for number, (a, b) in enumerate(offsets) if b > start and a < end]
            spans.append((inside[0], inside[-1] + 1))
        return spans

    def _place(self, name: str, messages: list[dict[str, Any]], number: int, whole: str) -> tuple[int, int]:
        """From where to where in ``whole`` the text of one message stands."""
        other = [*messages[:number], _message(messages[number]["role"], _OTHER), *messages[number + 1 :]]
        before, found, behind = self.processor.apply_chat_template(other).partition(_OTHER)
        end = len(whole) - len(behind)
        if not found or end < len(before) or not (whole.startswith(before) and whole.endswith(behind)):
            raise InputError(
                f"{name}: the base's chat template writes the conversation otherwise when turn {number} is another; "
                "that turn cannot be told from what is around it."
            )
        return len(before), end

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters that each token of a rendered exchange stands for."""
        made = self.tokenizer(text, add_special_tokens=not begun(self.processor, text), return_offsets_mapping=True)
        offsets: list[tuple[int, int]] = made["offset_mapping"]
        return offsets

    def _placed(self, ids: Tensor, example: Example, text: Rendered) -> list[tuple[int, int]]:
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

    def _spoken(self, example: Example, text: Rendered) -> int:
        """Tokens of a row from the assistant's first turn on."""
        first = next(number for number, turn in enumerate(example.turns) if turn.role == "assistant")
        later = [image for turn in example.turns[first:] for image in turn.images]
        return text.size - text.spans[0][0] + self._longer_by(later)

    def _open(self, example: Example, source: ImageSource) -> Image.Image:
        try:
            return open_image(source)
        except InputError as error:
            raise InputError(*(f"{example.id}: {fault}" for fault in error.faults)) from error

    def _tokens_of(self, prompt: str, target: str) -> tuple[int, int]:
        """Tokens of the exchange, and of the assistant's turn: those after the longest run that both texts share.

        The exchange is tokenised whole, as the model would write it; a token that spans the border is the answer's.
        """
        before, whole = self.tokens(prompt), self.tokens(prompt + target)
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        return len(whole), len(whole) - shared

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
    """One turn as ``apply_chat_template`` takes it: pictures where the text has their marks, or before it."""
    if PICTURE not in text:
        text = PICTURE * pictures + text
    first, *others = text.split(PICTURE)
    content = [{"type": "text", "text": first}] if first or not others else []
    for number, piece in enumerate(others, 1):
        content.append({"type": "image"})
        if piece or number == len(others):
            content.append({"type": "text", "text": piece})
    return {"role": role, "content": content}


def _last_run(row: list[int], plain: list[int], start: int, end: int) -> int:
    """Where ``plain[start:end]`` stands last in ``row``, with what is before it if that agrees; -1 for nowhere."""
    for before in range(min(8, start), 0, -1):
        run = plain[start - before : end]
        for at in range(len(row) - len(run), -1, -1):
            if row[at : at + len(run)] == run:
                return at + before
    return -1


def _shared(one: str, other: str) -> str:
    """What both begin with."""
    return one[
        : next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other))))
    ]


def _ended(target: str, end: str | None) -> str:
    """The assistant's turn up to its end-of-sequence token, which is added where the template writes none."""
    if end is None:
        return target.rstrip()
    return target[: target.index(end)] + end if end in target else target.rstrip() + end


def _no_room(name: str, before: int, limit: int) -> str:
    return f"{name}: {before} tokens before the answer leave no room for it in data.max_length={limit}"
