"""Turns examples into batches: chat template, tokens, pictures, and labels for the assistant's turns only.

Knows a transformers processor; knows no data set, no adapter and no training.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lora_mm.data.encode import check_question
from lora_mm.data.encoder import Encoder
from lora_mm.data.example import Example, Turn
from lora_mm.data.render import RenderedExample, get_words, to_messages
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError, name_place, truncate_faults
from lora_mm.models.fitting import AS_IS, Fitter
from lora_mm.models.forward import IGNORE_INDEX

Overlong = Literal["error", "drop", "truncate"]

_CONTEXT_TOKENS = 8
"""Number of tokens before a turn that must match too when the turn is searched in a row."""

_INPUTS_PER_TOKEN = frozenset(
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
"""Names of inputs with one value per token: [batch, tokens, …]."""


@dataclass(frozen=True, slots=True)
class PreparedExamples:
    """The result of :meth:`Collator.prepare`.

    Attributes:
        examples: examples to train on, in order.
        lengths: number of tokens of each example, placeholders included.
        pictured: whether each example has a picture.
        dropped: ids of examples that were dropped as too long.
        truncated: ids of examples that will be truncated.
        faults: faults of examples that were dropped because the base cannot read them.
    """

    examples: "Subset"
    lengths: Sequence[int]
    pictured: Sequence[int]
    dropped: list[str]
    truncated: list[str]
    faults: list[str]


class Subset(Sequence[Example]):
    """A selection from a sequence of examples; each example is read on access.

    Args:
        examples: the sequence.
        numbers: indices of the selected examples, in order.
    """

    def __init__(self, examples: Sequence[Example], numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return Subset(self.examples, self.numbers[number])
        return self.examples[self.numbers[number]]


class Collator(Encoder):
    """Turns lists of examples into model inputs.

    Calling it on examples returns a training batch, padded on the right: the processor's inputs, and ``labels``
    [batch, tokens], which are :data:`IGNORE_INDEX` outside the assistant's turns. A turn includes the template's end of
    the turn; the last one ends with an end-of-sequence token.

    Args:
        processor: the base's ``AutoProcessor``, with a chat template.
        max_length: maximum number of tokens of an example, placeholders included; longer examples are truncated.
        slicer: cuts every picture into crops, whose placeholders follow each other directly. None keeps pictures whole.
        fitter: fits every picture before the slicer and the processor; by default, leaves it as it is.
    """

    def __init__(
        self, processor: Any, *, max_length: int, slicer: Slicer | None = None, fitter: Fitter = AS_IS
    ) -> None:
        super().__init__(processor, slicer=slicer, fitter=fitter)
        self.max_length = max_length

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        rendered = [self.render_supervised(example) for example in examples]
        rows = [
            self._make_row(text.prompt, text.target, self._count_suffix(example, text), example.turns, example.id)
            for example, text in zip(examples, rendered, strict=True)
        ]
        batch = self._encode([example.id for example in examples], rows, "right")
        batch["labels"] = self._make_labels(batch, examples, rendered)
        return self._truncate(batch)

    def prompts(self, examples: Sequence[Example], begin: str = "") -> dict[str, Tensor]:
        """Encode examples up to the assistant's last turn, padded on the left.

        Args:
            examples: one for each row of the batch.
            begin: beginning of the answer, appended to every row.
        """
        rows = []
        for example in examples:
            text = self.render_supervised(example)
            begun = self.count_tokens(text.prompt, begin)[1]
            suffix = self._count_suffix(example, text) - (text.size - text.spans[-1][0]) + begun
            rows.append(self._make_row(text.prompt, begin, suffix, example.turns[:-1], example.id))
        return self._encode([example.id for example in examples], rows, "left")

    def conversation(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Encode a conversation up to the assistant's next turn, as one row.

        A picture stands where its turn's text has it, or before that text.

        Raises:
            InputError: a turn contains a special token of the base or marks for other pictures than its own, or the
                base's template or processor refuses the turns.
        """
        name = "conversation"
        for turn in turns:
            self._check_turn(f"{turn.role}'s turn", turn)
        messages = to_messages(turns)
        prompt = self.apply_template(name, messages, add_generation_prompt=True)
        answered = next((number for number, turn in enumerate(turns) if turn.role == "assistant"), None)
        suffix = 0
        if answered:
            asked = self.apply_template(name, messages[:answered], add_generation_prompt=True)
            _, suffix = self.count_tokens(asked, prompt.removeprefix(asked))
            suffix += self._count_later_expansion(name, turns, answered)
        return self._encode([name], [self._make_row(prompt, "", suffix, turns, name)], "left")

    def length(self, example: Example, *, asked: bool = False) -> tuple[int, int]:
        """Count an example's tokens: those that cannot be truncated, and the others.

        The tokens before the assistant's turn cannot be truncated, placeholders included. In a conversation, these are
        the tokens before the first assistant turn that follows all pictures.

        Args:
            example: the example.
            asked: whether the example is a question to the model, not an answer to learn. Its prompt and its longest
                candidate are counted, and nothing of it can be truncated.
        """
        text = self.render_supervised(example)
        with name_place(example.id):
            for turn in example.turns:
                if turn.images:
                    check_question(self.processor, get_words(turn))
        expansion = self._count_expansion(example.id, example.turns)
        if asked:
            longest = max((len(self.tokenize(candidate)) for candidate in example.candidates), default=0)
            return text.spans[-1][0] + longest + expansion, 0
        fixed = text.spans[text.after_pictures][0]
        return fixed + expansion, text.size - fixed

    def prepare(
        self,
        examples: Sequence[Example],
        overlong: Overlong,
        faulty: Literal["error", "drop"] = "error",
        *,
        asked: bool = False,
    ) -> PreparedExamples:
        """Measure every example, and handle those over ``max_length``.

        A picture is never truncated: an example without room for an answer after its pictures is faulty. Only the
        indices of examples are kept in memory.

        Args:
            examples: the examples to measure.
            overlong: whether an example over ``max_length`` is an error, dropped, or truncated at its end.
            faulty: whether an example that cannot be used is an error, or dropped.
            asked: whether the examples are questions to the model; see :meth:`length`.

        Raises:
            InputError: examples are too long, or the base cannot read them; names them.
        """
        numbers, lengths, pictured = array("I"), array("I"), array("B")
        dropped: list[str] = []
        truncated: list[str] = []
        faults: list[str] = []
        for number in range(len(examples)):
            example = examples[number]
            try:
                fixed, cuttable = self.length(example, asked=asked)
            except InputError as error:
                faults += error.faults
                continue
            total = fixed + cuttable
            if total > self.max_length:
                if overlong == "drop":
                    dropped.append(example.id)
                    continue
                if fault := self.find_length_fault(example.id, fixed, total, overlong):
                    faults.append(fault)
                    continue
                truncated.append(example.id)
            numbers.append(number)
            lengths.append(min(total, self.max_length))
            pictured.append(bool(example.pictures))
        if faults and faulty == "error":
            raise InputError(*truncate_faults(faults))
        return PreparedExamples(Subset(examples, numbers), lengths, pictured, dropped, truncated, faults)

    def find_length_fault(self, name: str, fixed: int, total: int, overlong: Overlong) -> str | None:
        """Describe what is wrong with an example's length; None if it is fine.

        Args:
            name: name of the example in the message.
            fixed: number of its tokens that cannot be truncated; equal to ``total`` for a question to the model.
            total: number of all its tokens.
            overlong: whether an example over ``max_length`` is an error, dropped, or truncated at its end.
        """
        if total <= self.max_length or overlong == "drop":
            return None
        if fixed == total:
            return (
                f"{name}: {total} tokens to ask, more than data.max_length={self.max_length}; raise it, or leave such "
                "questions out: data.overlong=drop"
            )
        if fixed >= self.max_length:
            return _describe_no_room(name, fixed, self.max_length)
        if overlong == "truncate":
            return None
        return (
            f"{name}: {total} tokens, more than data.max_length={self.max_length}; raise it, or set "
            "data.overlong to drop or truncate"
        )

    # --- labels ------------------------------------------------------------------------------------------------------

    def _make_labels(
        self, batch: dict[str, Tensor], examples: Sequence[Example], rendered: Sequence[RenderedExample]
    ) -> Tensor:
        """Make labels [batch, tokens]: ids in the assistant's turns, :data:`IGNORE_INDEX` elsewhere."""
        labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
        for row, (example, text) in enumerate(zip(examples, rendered, strict=True)):
            length = int(batch["attention_mask"][row].sum())
            fixed = length - text.size + text.spans[text.after_pictures][0]
            if length > self.max_length and fixed >= self.max_length:
                raise InputError(_describe_no_room(example.id, fixed, self.max_length))
            for start, end in self._locate_spans(batch["input_ids"][row, :length], example, text):
                labels[row, start:end] = batch["input_ids"][row, start:end]
        return labels

    def _locate_spans(self, ids: Tensor, example: Example, text: RenderedExample) -> list[tuple[int, int]]:
        """Find the supervised spans in a row of ids, where placeholders have replaced the marks of pictures.

        Spans after all pictures keep their distance from the end of the row. Spans before a picture are searched by
        their ids, starting from the end.
        """
        shift = len(ids) - text.size
        located = [(start + shift, end + shift) for start, end in text.spans[text.after_pictures :]]
        if not text.after_pictures:
            return located
        row, marked = ids.tolist(), self.tokenize(text.prompt + text.target)
        bound = located[0][0]
        for start, end in reversed(text.spans[: text.after_pictures]):
            bound = _find_last(row[:bound], marked, start, end)
            if bound < 0:
                raise InputError(f"{example.id}: cannot find an assistant turn among the tokens.")
            located.insert(0, (bound, bound + end - start))
        return located

    def _truncate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if batch["input_ids"].shape[1] <= self.max_length:
            return batch
        return {
            name: value[:, : self.max_length] if name in _INPUTS_PER_TOKEN else value for name, value in batch.items()
        }

    def _count_suffix(self, example: Example, text: RenderedExample) -> int:
        """Count the tokens from the assistant's first turn to the end of the row."""
        first = next(number for number, turn in enumerate(example.turns) if turn.role == "assistant")
        return text.size - text.spans[0][0] + self._count_later_expansion(example.id, example.turns, first)


def split_into_batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """Split examples into batches in order.

    Args:
        examples: the examples to split.
        size: number of examples in a batch; the last batch may be smaller.
    """
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def _find_last(row: list[int], ids: list[int], start: int, end: int) -> int:
    """Find the last position of ``ids[start:end]`` in ``row``; -1 if there is none.

    At least one of the tokens before it must match too; the position with most matches is taken.
    """
    for context in range(min(_CONTEXT_TOKENS, start), 0, -1):
        run = ids[start - context : end]
        for at in range(len(row) - len(run), -1, -1):
            if row[at : at + len(run)] == run:
                return at + context
    return -1


def _describe_no_room(name: str, before: int, limit: int) -> str:
    return f"{name}: {before} tokens before the answer; data.max_length={limit} leaves no room for it"
