"""Reads rows with one question: with an answer, with choices, or a caption. Knows values; knows no columns."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_mm.data.cells import format_value, read_text
from lora_mm.data.example import LETTERS, Example, Turn
from lora_mm.data.row_context import MARK, AnswerForm, RowContext, describe_mark_mismatch
from lora_mm.errors import InputError
from lora_mm.json_text import parse_json


def read_question_answer(context: RowContext, values: Mapping[str, Any], id: str) -> Example:
    """Read a row with one answer, or with the answers of several people.

    Args:
        context: settings that all rows of the source share.
        values: ``answer``, optionally ``question`` (by default the source's), ``context`` and ``image``.
        id: id of the example.

    Raises:
        InputError: the row is faulty.
    """
    turn = _read_question(context, values)
    target, references = _read_answers(values["answer"])
    return Example(id, turn.text, target, turn.images, references=references)


def read_multiple_choice(context: RowContext, values: Mapping[str, Any], id: str) -> Example:
    """Read a row with choices, one of which is right.

    Args:
        context: settings that all rows of the source share. With response ``letter`` the answer is the choice's letter.
            ``answer`` says how the rows name the right choice.
        values: ``question``, ``choices``, ``answer``, optionally ``context`` and ``image``.
        id: id of the example.

    Raises:
        InputError: the row is faulty.
    """
    choices = _read_choices(values["choices"])
    answer = _read_choice_index(values["answer"], choices, context.answer)
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))
    turn = _read_question(context, values, listed)
    candidates = tuple(LETTERS[: len(choices)]) if context.response == "letter" else choices
    target = candidates[answer]
    return Example(id, turn.text, target, turn.images, candidates, references=(target,), answer=answer)


def _read_question(context: RowContext, values: Mapping[str, Any], choices: str = "") -> Turn:
    """Read the user turn: context, question and choices, each on its own line, and the pictures."""
    question = values.get("question", context.question)
    if question is None:
        raise InputError("question: the row has none; set data.question for all rows")
    passage = read_text("context", values.get("context") or "", allow_empty=True)
    pictures = context.pictures.read_cell(values.get("image"))
    text = "\n".join(part for part in (passage, read_text("question", question), choices) if part)
    marks = text.count(MARK)
    if marks and marks != len(pictures):
        raise InputError(describe_mark_mismatch(marks, len(pictures)))
    return context.make_user_turn(text, pictures)


def _read_answers(value: Any) -> tuple[str, tuple[str, ...]]:
    """Read the target and the right answers: for several people's answers, the most frequent one, and all."""
    if not isinstance(value, list):
        return read_text("answer", value), ()
    if not value:
        raise InputError("answer: the list is empty")
    texts = [read_text("answer", item.get("answer") if isinstance(item, Mapping) else item) for item in value]
    return Counter(texts).most_common(1)[0][0], tuple(texts)


def _read_choices(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):  # a CSV's cell
        try:
            value = parse_json(value)
        except InputError:
            raise InputError(f'choices: {format_value(value)} is not a list; write ["one", "two"]') from None
    if not isinstance(value, list):
        raise InputError(f"choices: {format_value(value)} is not a list")
    if not 2 <= len(value) <= len(LETTERS):
        raise InputError(f"choices: {len(value)} given, must be 2 to {len(LETTERS)}")
    texts = tuple(read_text(f"choices: number {number}", item) for number, item in enumerate(value))
    if len(set(texts)) < len(texts):
        raise InputError(f"choices: duplicate '{Counter(texts).most_common(1)[0][0]}'")
    return texts


def _read_choice_index(value: Any, choices: Sequence[str], form: AnswerForm | None) -> int:
    """Read the right choice's index, given in one form; or in any form, if all that fit name the same choice."""
    is_index = type(value) is int  # a bool is an int in Python
    text = str(value) if is_index else read_text("answer", value)
    forms = _ANSWER_FORMS if form is None else {form: _ANSWER_FORMS[form]}
    readings = {name: index for name, read in forms.items() if (index := read(text, choices)) is not None}
    found = set(readings.values())
    if len(found) > 1:
        named = " and ".join(f"the {name} of choice {index}" for name, index in readings.items())
        ways = " or ".join(f"--set data.answer={name}" for name in readings)
        raise InputError(f"answer: {format_value(value)} is {named}, counted from 0; say which is meant: {ways}")
    if not found and is_index and form in (None, "index"):
        raise InputError(f"answer: {value} is out of range, there are {len(choices)} choices (0 to {len(choices) - 1})")
    if not found:
        raise InputError(
            f"answer: {format_value(value)} is not the {form or 'index, letter or text'} of any of the choices"
        )
    return found.pop()


def _read_as_index(text: str, choices: Sequence[str]) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,3}", text) and int(text) < len(choices) else None


def _read_as_letter(text: str, choices: Sequence[str]) -> int | None:
    match = re.fullmatch(r"\(?([A-Z])[).]?", text)
    return LETTERS.index(match[1]) if match and LETTERS.index(match[1]) < len(choices) else None


def _read_as_text(text: str, choices: Sequence[str]) -> int | None:
    return choices.index(text) if text in choices else None


_ANSWER_FORMS: Mapping[AnswerForm, Callable[[str, Sequence[str]], int | None]] = {
    "index": _read_as_index,
    "letter": _read_as_letter,
    "text": _read_as_text,
}
"""Form in ``data.answer`` → (answer, choices) → the right choice's index; None if the answer has another form."""
