"""Writes conversations by a base's own chat template, and finds which tokens of them are supervised.

Supervised is what the assistant says: the text of each of its turns, with what the template writes to end a turn. A
template is a program that may trim, number or drop texts, so nothing is known of it in advance. It is asked instead:

- *The last turn* is what follows the prompt, and the prompt is the conversation rendered without that turn.
- *An earlier turn* is found by rendering the conversation once more with another text in that turn. All that stays the
  same before and after the difference is the template's; what lies between is the turn.

Opens no picture: here each picture is one mark, and so one token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lora_mm.data.encode import starts_with_bos
from lora_mm.data.example import PICTURE, Example
from lora_mm.errors import InputError

_CACHED = 20_000
"""Rendered examples that a collator keeps: some tens of megabytes of text."""

_SUBSTITUTE = "\ue000"
"""A character of private use, put in place of a turn's text to see where the text stands."""


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as the chat template writes it.

    Attributes:
        prompt: everything before the assistant's last turn, with a mark for each picture.
        target: the assistant's last turn, with its end.
        size: tokens of prompt and target, where each picture's mark is one token.
        spans: the supervised tokens: begin and end (exclusive) of each of the assistant's turns, counted in ``size``.
        after_pictures: number of the first span that stands after all pictures.
    """

    prompt: str
    target: str
    size: int
    spans: tuple[tuple[int, int], ...]
    after_pictures: int


class Renderer:
    """Writes examples by a processor's chat template.

    Args:
        processor: the base's ``AutoProcessor``.

    Raises:
        InputError: the processor has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if not getattr(processor, "chat_template", None):
            raise InputError("The base's processor has no chat template; set base.model to a base that has one.")
        self._cache: dict[tuple[tuple[str, str, int], ...], RenderedExample] = {}

    def render(self, example: Example) -> tuple[str, str]:
        """Write an example as text: what is before the assistant's last turn, and that turn with its end token.

        Raises:
            InputError: a text contains a special token, the template refuses the conversation, or it changes the prompt
                once the answer is there.
        """
        self._check_plain_text(example.id, "\n".join(turn.text for turn in example.turns))
        for turn in example.turns:
            if (marks := turn.text.count(PICTURE)) not in (0, len(turn.images)):
                raise InputError(f"{example.id}: {marks} picture marks but {len(turn.images)} pictures in one turn.")
        messages = _to_messages(example)
        try:
            prompt = self.processor.apply_chat_template(messages[:-1], add_generation_prompt=True)
            whole = self.processor.apply_chat_template(messages)
        except TemplateError as error:
            raise InputError(f"{example.id}: the base's chat template refuses the conversation: {error}") from error
        if not whole.startswith(prompt):
            raise InputError(
                f"{example.id}: the base's chat template changes the prompt once the answer is there, so the answer "
                "cannot be separated from the prompt."
            )
        return prompt, _end_turn(whole[len(prompt) :], self.tokenizer.eos_token)

    def render_supervised(self, example: Example) -> RenderedExample:
        """Write an example as text, and find its supervised tokens. Kept, as every epoch asks for it again.

        Raises:
            InputError: see :meth:`render`; or one of the assistant's turns cannot be found in the text.
        """
        key = tuple((turn.role, turn.text, len(turn.images)) for turn in example.turns)
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        prompt, target = self.render(example)
        size, answer = self.count_tokens(prompt, target)
        spans = (*self._find_earlier_spans(example, prompt, target), (size - answer, size))
        last_shown = max((number for number, turn in enumerate(example.turns) if turn.images), default=0)
        after_pictures = sum(turn.role == "assistant" for turn in example.turns[:last_shown])
        rendered = RenderedExample(prompt, target, size, spans, after_pictures)
        if len(self._cache) < _CACHED:
            self._cache[key] = rendered
        return rendered

    def tokenize(self, text: str) -> list[int]:
        """Tokenize a rendered text; each picture's mark is one token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not starts_with_bos(self.processor, text))["input_ids"]
        return ids

    def count_tokens(self, prompt: str, target: str) -> tuple[int, int]:
        """Count the tokens of prompt and target together, and those of the target alone.

        Both are tokenized as one text, as the model would write it. A token that spans the border is the target's.

        Args:
            prompt: rendered text before the assistant's last turn.
            target: the assistant's last turn.
        """
        before, whole = self.tokenize(prompt), self.tokenize(prompt + target)
        return len(whole), len(whole) - _count_shared(before, whole)

    def _check_plain_text(self, name: str, text: str) -> None:
        """Raise InputError for text that the tokenizer would read as one of its special tokens."""
        for token in self.tokenizer.all_special_tokens:
            if token in text:
                raise InputError(f"{name}: the text contains {token!r}, a special token of the base; reword it.")

    def _find_earlier_spans(self, example: Example, prompt: str, target: str) -> list[tuple[int, int]]:
        """Find the tokens of the assistant's turns before its last, each with the template's end of a turn."""
        answers = [number for number, turn in enumerate(example.turns) if turn.role == "assistant"]
        if len(answers) == 1:
            return []
        messages = _to_messages(example)
        whole = self.processor.apply_chat_template(messages)
        *earlier, last = [self._find_text(example.id, messages, number, whole) for number in answers]
        lead, ending = whole[len(prompt) : last[0]], whole[last[1] :]
        offsets = self._get_offsets(prompt + target)
        spans = []
        for text in earlier:
            begin, end = self._widen_to_turn(whole, text, lead, ending)
            tokens = [number for number, (first, past) in enumerate(offsets) if past > begin and first < end]
            if not tokens:
                raise InputError(f"{example.id}: the base's chat template leaves out one of the assistant's turns.")
            spans.append((tokens[0], tokens[-1] + 1))
        return spans

    def _find_text(self, id: str, messages: list[dict[str, Any]], number: int, whole: str) -> tuple[int, int]:
        """Find begin and end, in characters of ``whole``, of the text of one message."""
        substitute = to_message(messages[number]["role"], _SUBSTITUTE)
        changed = [*messages[:number], substitute, *messages[number + 1 :]]
        before, separator, after = self.processor.apply_chat_template(changed).partition(_SUBSTITUTE)
        begin, end = len(before), len(whole) - len(after)
        if not separator or end < begin or not (whole.startswith(before) and whole.endswith(after)):
            raise InputError(
                f"{id}: the base's chat template changes other text when turn {number} changes, so that turn cannot be "
                "found in the text."
            )
        return begin, end

    def _widen_to_turn(self, whole: str, text: tuple[int, int], lead: str, ending: str) -> tuple[int, int]:
        """Widen an earlier turn's text to what is supervised of the last turn: its lead, its text and its end.

        Args:
            whole: the rendered conversation.
            text: begin and end of the turn's text in ``whole``.
            lead: what stands between the prompt and the last turn's text, such as a space.
            ending: what stands after the last turn's text.
        """
        begin, end = text
        if lead and whole[:begin].endswith(lead):
            begin -= len(lead)
        turn_end = ending[: _count_shared(ending, whole[end:])].rstrip()
        eos = self.tokenizer.eos_token
        end += turn_end.index(eos) + len(eos) if eos and eos in turn_end else len(turn_end)
        return begin, end

    def _get_offsets(self, text: str) -> list[tuple[int, int]]:
        """Get begin and end, in characters, of each token of a rendered text."""
        encoded = self.tokenizer(
            text, add_special_tokens=not starts_with_bos(self.processor, text), return_offsets_mapping=True
        )
        offsets: list[tuple[int, int]] = encoded["offset_mapping"]
        return offsets


def to_message(role: str, text: str, pictures: int = 0) -> dict[str, Any]:
    """Write one turn as ``apply_chat_template`` takes it.

    Args:
        role: who speaks.
        text: with a ``PICTURE`` where each picture stands, or none: then the pictures go before the text.
        pictures: number of the turn's pictures.
    """
    if PICTURE not in text:
        text = PICTURE * pictures + text
    first, *others = text.split(PICTURE)
    content = [{"type": "text", "text": first}] if first or not others else []
    for number, piece in enumerate(others, 1):
        content.append({"type": "image"})
        if piece or number == len(others):
            content.append({"type": "text", "text": piece})
    return {"role": role, "content": content}


def _to_messages(example: Example) -> list[dict[str, Any]]:
    return [to_message(turn.role, turn.text, len(turn.images)) for turn in example.turns]


def _count_shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of what both begin with."""
    differences = (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differences, min(len(one), len(other)))


def _end_turn(target: str, eos: str | None) -> str:
    """Cut the assistant's turn after its end-of-sequence token, which is added where the template writes none."""
    if eos is None:
        return target.rstrip()
    return target[: target.index(eos)] + eos if eos in target else target.rstrip() + eos
