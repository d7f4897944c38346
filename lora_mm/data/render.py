"""Conversations as a base's own chat template writes them, and which tokens the assistant speaks. Opens no picture."""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lora_mm.data.encode import starts_with_bos
from lora_mm.data.example import PICTURE, Example
from lora_mm.errors import InputError

_KEPT = 20_000
"""Rendered exchanges that a collator keeps: some tens of megabytes of text."""

_OTHER = "\ue000"
"""A character of private use, put in place of a turn's text to see where it stands."""


@dataclass(frozen=True, slots=True)
class RenderedExample:
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


class Renderer:
    """Writes examples by a processor's chat template.

    Raises:
        InputError: where the processor has none.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if not getattr(processor, "chat_template", None):
            raise InputError("The base's processor has no chat template; point base.model at one that has.")
        self._rendered: dict[tuple[tuple[str, str, int], ...], RenderedExample] = {}

    def render(self, example: Example) -> tuple[str, str]:
        """The exchange as text: what is before the assistant's last turn, and that turn with its end-of-sequence token.

        Raises:
            InputError: when the template writes the conversation otherwise once the answer is there.
        """
        self._check_plain(example.id, "\n".join(turn.text for turn in example.turns))
        for turn in example.turns:
            if (marks := turn.text.count(PICTURE)) not in (0, len(turn.images)):
                raise InputError(f"{example.id}: {marks} places for {len(turn.images)} pictures in one turn.")
        messages = [to_message(turn.role, turn.text, len(turn.images)) for turn in example.turns]
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

    def tokens(self, text: str) -> list[int]:
        """Ids of a rendered exchange, each picture's mark one of them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not starts_with_bos(self.processor, text))["input_ids"]
        return ids

    def rendered(self, example: Example) -> RenderedExample:
        """:meth:`render`, and which tokens the assistant speaks: kept, as every epoch asks for them again."""
        key = tuple((turn.role, turn.text, len(turn.images)) for turn in example.turns)
        found = self._rendered.get(key)
        if found is None:
            prompt, target = self.render(example)
            size, spoken = self.count(prompt, target)
            last = (size - spoken, size)
            shown = max((number for number, turn in enumerate(example.turns) if turn.images), default=0)
            free = sum(turn.role == "assistant" for turn in example.turns[:shown])
            found = RenderedExample(prompt, target, size, (*self._earlier(example, prompt, target), last), free)
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
        messages = [to_message(turn.role, turn.text, len(turn.images)) for turn in example.turns]
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
            if not inside:
                raise InputError(f"{example.id}: the base's chat template leaves one of the assistant's turns out.")
            spans.append((inside[0], inside[-1] + 1))
        return spans

    def _place(self, name: str, messages: list[dict[str, Any]], number: int, whole: str) -> tuple[int, int]:
        """From where to where in ``whole`` the text of one message stands."""
        other = [*messages[:number], to_message(messages[number]["role"], _OTHER), *messages[number + 1 :]]
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
        made = self.tokenizer(
            text, add_special_tokens=not starts_with_bos(self.processor, text), return_offsets_mapping=True
        )
        offsets: list[tuple[int, int]] = made["offset_mapping"]
        return offsets

    def count(self, prompt: str, target: str) -> tuple[int, int]:
        """Tokens of the exchange, and of the assistant's turn: those after the longest run that both texts share.

        The exchange is tokenised whole, as the model would write it; a token that spans the border is the answer's.
        """
        before, whole = self.tokens(prompt), self.tokens(prompt + target)
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        return len(whole), len(whole) - shared


def to_message(role: str, text: str, pictures: int = 0) -> dict[str, Any]:
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
