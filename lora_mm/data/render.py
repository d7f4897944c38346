"""Renders conversations with the base's chat template, and finds their supervised tokens. Opens no picture.

The assistant's turns are supervised: the text of each turn and the template's end of the turn. A template is a program
that may trim, number or drop texts, so these tokens are found by rendering:

- *The last turn* follows the prompt, which is the conversation rendered without that turn.
- *An earlier turn* is found by rendering the conversation again with another text in that turn. What stays the same
  before and after it belongs to the template, the rest is the turn.

Each picture is one mark here, and so one token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lora_mm.data.encode import get_image_mark, starts_with_bos
from lora_mm.data.example import PICTURE, Example, Turn
from lora_mm.errors import InputError, shorten
from lora_mm.models.special_tokens import list_special_tokens

_CACHED = 20_000
"""Number of rendered examples to cache: some tens of megabytes of text."""

_PICTURE_IN_TEXT = re.compile(rf"\s*{PICTURE}\s*")

_WORDS = re.compile(r"\S(?:.*\S)?", re.DOTALL)
"""A text without the spaces around it."""

_SUBSTITUTE = "\ue000"
"""A private-use character that replaces the text of a turn to find its position."""


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as the chat template renders it.

    Attributes:
        prompt: the text before the assistant's last turn, with a mark for each picture.
        target: the assistant's last turn, with its end.
        size: number of tokens of prompt and target; a picture's mark is one token.
        spans: the supervised tokens: first and last (exclusive) index of each assistant turn among the ``size`` tokens.
        after_pictures: index of the first span that follows all pictures.
    """

    prompt: str
    target: str
    size: int
    spans: tuple[tuple[int, int], ...]
    after_pictures: int


class Renderer:
    """Renders examples with a processor's chat template.

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
        self._special_token = _compile_special_tokens(processor)
        self._cache: dict[tuple[tuple[str, str, int], ...], RenderedExample] = {}

    def render(self, example: Example) -> tuple[str, str]:
        """Render an example: the text before the assistant's last turn, and that turn with its end token.

        Raises:
            InputError: a text contains a special token, the template refuses the conversation, or the answer changes
                how the template renders the prompt.
        """
        for turn in example.turns:
            self._check_turn(example.id, turn)
        messages = to_messages(example.turns)
        prompt = self.apply_template(example.id, messages[:-1], add_generation_prompt=True)
        whole = self.apply_template(example.id, messages)
        if not whole.startswith(prompt):
            raise InputError(
                f"{example.id}: the base's chat template renders the prompt differently with an answer, so the answer "
                "cannot be separated from it."
            )
        return prompt, _end_turn(whole[len(prompt) :], self.tokenizer.eos_token)

    def apply_template(self, name: str, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """Render messages as text.

        Args:
            name: name of the conversation in messages.
            messages: the turns; see :func:`to_messages`.
            add_generation_prompt: whether to end with the beginning of the assistant's turn.

        Raises:
            InputError: the template refuses the messages.
        """
        try:
            text: str = self.processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template is a program, and may raise anything
            raise InputError(
                f"{name}: the base's chat template refuses the conversation: {describe_error(error)}"
            ) from error
        return text

    def render_supervised(self, example: Example) -> RenderedExample:
        """Render an example and find its supervised tokens. The result is cached, since every epoch needs it.

        Raises:
            InputError: see :meth:`render`; or an assistant turn cannot be found in the text.
        """
        key = tuple((turn.role, turn.text, len(turn.images)) for turn in example.turns)
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        prompt, target = self.render(example)
        size, answer = self.count_tokens(prompt, target)
        spans = (*self._find_earlier_spans(example, prompt, target), (size - answer, size))
        last_pictured = max((number for number, turn in enumerate(example.turns) if turn.images), default=0)
        after_pictures = sum(turn.role == "assistant" for turn in example.turns[:last_pictured])
        rendered = RenderedExample(prompt, target, size, spans, after_pictures)
        if len(self._cache) < _CACHED:
            self._cache[key] = rendered
        return rendered

    def tokenize(self, text: str) -> list[int]:
        """Tokenize a rendered text. A picture's mark is one token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not starts_with_bos(self.processor, text))["input_ids"]
        return ids

    def count_tokens(self, prompt: str, target: str) -> tuple[int, int]:
        """Count the tokens of prompt and target together, and of the target alone.

        Both are tokenized as one text, as the model writes it. A token across the border counts as the target's.

        Args:
            prompt: rendered text before the assistant's last turn.
            target: the assistant's last turn.
        """
        prompt_ids, all_ids = self.tokenize(prompt), self.tokenize(prompt + target)
        return len(all_ids), len(all_ids) - _count_shared(prompt_ids, all_ids)

    def _check_turn(self, name: str, turn: Turn) -> None:
        """Raise InputError for a text that spells a special token, or has more or fewer marks than pictures."""
        # Some templates write all pictures first, and then the texts around them without a space between.
        if match := self._special_token.search(_PICTURE_IN_TEXT.sub("", turn.text)):
            raise InputError(
                f"{name}: the text contains {match.group()!r}, a special token of the base; reword it, or "
                "allow it if answers are made of it (data.special_tokens)."
            )
        if (marks := turn.text.count(PICTURE)) not in (0, len(turn.images)):
            raise InputError(f"{name}: {marks} picture marks but {len(turn.images)} pictures in one turn.")

    def _find_earlier_spans(self, example: Example, prompt: str, target: str) -> list[tuple[int, int]]:
        """Find the tokens of the assistant's earlier turns, each with the template's end of the turn."""
        answers = [number for number, turn in enumerate(example.turns) if turn.role == "assistant"]
        if len(answers) == 1:
            return []
        messages = to_messages(example.turns)
        whole = self.apply_template(example.id, messages)
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
        """Find start and end of a message's text, in characters of ``whole``."""
        substitute = _to_message(messages[number]["role"], _SUBSTITUTE)
        changed = [*messages[:number], substitute, *messages[number + 1 :]]
        before, separator, after = self.apply_template(id, changed).partition(_SUBSTITUTE)
        begin, end = len(before), len(whole) - len(after)
        if not separator or end < begin or not (whole.startswith(before) and whole.endswith(after)):
            raise InputError(
                f"{id}: turn {number} cannot be found in the rendered text: another text in that turn changes what the "
                "base's chat template writes elsewhere."
            )
        return begin, end

    def _widen_to_turn(self, whole: str, text: tuple[int, int], lead: str, ending: str) -> tuple[int, int]:
        """Widen an earlier turn's text by the same lead and end that are supervised in the last turn.

        Args:
            whole: the rendered conversation.
            text: start and end of the turn's text in ``whole``.
            lead: what the template writes between the prompt and the last turn's text, for example a space.
            ending: what the template writes after the last turn's text.
        """
        begin, end = text
        if lead and whole[:begin].endswith(lead):
            begin -= len(lead)
        turn_end = ending[: _count_shared(ending, whole[end:])].rstrip()
        eos = self.tokenizer.eos_token
        end += turn_end.index(eos) + len(eos) if eos and eos in turn_end else len(turn_end)
        return begin, end

    def _get_offsets(self, text: str) -> list[tuple[int, int]]:
        """Get start and end of each token of a rendered text, in characters."""
        encoded = self.tokenizer(
            text, add_special_tokens=not starts_with_bos(self.processor, text), return_offsets_mapping=True
        )
        offsets: list[tuple[int, int]] = encoded["offset_mapping"]
        return offsets


def describe_error(error: Exception) -> str:
    """Describe an error of a base's template or processor in one line."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, TemplateError) else f"{type(error).__name__}: {shorten(first, 200)}"


def _compile_special_tokens(processor: Any) -> re.Pattern[str]:
    """Compile a pattern of every token that commands the base, where a text would spell it.

    Beside the special tokens of the tokenizer, these are those of a second
    tokenizer (the Q-Former's reads the prompt too), and the picture's mark, which a processor replaces in the text. An
    added token that is not called special is vocabulary: lines of HTML, or PaliGemma's places in a picture.
    """
    spellings = {get_image_mark(processor)}
    for tokenizer in (processor.tokenizer, getattr(processor, "qformer_tokenizer", None)):
        if tokenizer is not None:
            spellings.update(list_special_tokens(tokenizer))
    return re.compile("|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True)))


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Convert turns to messages for ``apply_chat_template``."""
    return [_to_message(turn.role, place_pictures(turn)) for turn in turns]


def place_pictures(turn: Turn) -> str:
    """Return a turn's text with a ``PICTURE`` for each picture; without any in the text, pictures go before it."""
    return turn.text if PICTURE in turn.text else PICTURE * len(turn.images) + turn.text


def get_words(turn: Turn) -> str:
    """Return a turn's text without its pictures."""
    return turn.text.replace(PICTURE, "").strip()


def outline_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Shorten each text to a letter, and leave out the turns after the last picture.

    The spaces around pictures stay, since they may share tokens with what a processor writes around a picture.
    """
    last = max((number for number, turn in enumerate(turns) if turn.images), default=-1)
    return tuple(
        Turn(turn.role, PICTURE.join(_WORDS.sub("a", piece) for piece in place_pictures(turn).split(PICTURE)))
        for turn in turns[: last + 1]
    )


def _to_message(role: str, text: str) -> dict[str, Any]:
    first, *others = ({"type": "text", "text": piece} for piece in text.split(PICTURE))
    content = [first, *(part for piece in others for part in ({"type": "image"}, piece))]
    # Templates write a space or a line after every text, so an empty one would show. Some need one text in a turn.
    filled = [part for part in content if part.get("text") != ""]
    return {"role": role, "content": filled if text.strip(PICTURE) else [*filled, first]}


def _count_shared(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the length of the common prefix of two sequences."""
    differences = (number for number, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differences, min(len(first), len(second)))


def _end_turn(target: str, eos: str | None) -> str:
    """Cut the assistant's turn after its end-of-sequence token; add the token if the template writes none."""
    if eos is None:
        return target.rstrip()
    return target[: target.index(eos)] + eos if eos in target else target.rstrip() + eos
