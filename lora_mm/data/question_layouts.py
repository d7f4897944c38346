"""Reads rows with one question: with an answer, with choices, or a caption. Knows values; knows no columns."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lora_mm.data.cells import format_value, read_text
from lora_mm.data.example import LETTERS, Example, Turn
from lora_mm.data.row_context import MARK, RowContext, describe_mark_mismatch
from lora_mm.errors import InputError


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
        values: ``question``, ``choices``, ``answer``, optionally ``context`` and ``image``.
        id: id of the example.

    Raises:
        InputError: the row is faulty.
    """
    choices = _read_choices(values["choices"])
    answer = _read_choice_index(values["answer"], choices)
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
            value = json.loads(value)
        except json.JSONDecodeError:
            raise InputError(f'choices: {format_value(value)} is not a list; write ["one", "two"]') from None
    if not isinstance(value, list):
        raise InputError(f"choices: {format_value(value)} is not a list")
    if not 2 <= len(value) <= len(LETTERS):
        raise InputError(f"choices: {len(value)} given, must be 2 to {len(LETTERS)}")
    texts = tuple(read_text(f"choices: number {number}", item) for number, item in enumerate(value))
    if len(set(texts)) < len(texts):
        raise InputError(f"choices: duplicate '{Counter(texts).most_common(1)[0][0]}'")
    return texts


def _read_choice_index(value: Any, choices: Sequence[str]) -> int:
    """Read the right choice's index, given as an index from 0, as a letter, or as the choice's text."""
    if type(value) is int:
        if not 0 <= value < len(choices):
            raise InputError(
                f"answer: {value} is out of range, there are {len(choices)} choices (0 to {len(choices) - 1})"
            )
        return value
    text = read_text("answer", value)
    readings = {choices.index(text)} if text in choices else set()
    letter = re.fullmatch(r"\(?([A-Z])[).]?", text)
    if letter and LETTERS.index(letter[1]) < len(choices):
        readings.add(LETTERS.index(letter[1]))
    if not readings and re.fullmatch(r"\d+", text) and int(text) < len(choices):
        readings = {int(text)}
    if len(readings) > 1:
        raise InputError(
            f"answer: {format_value(text)} is the letter of one choice and the text of another; give the index"
        )
    if not readings:
        raise InputError(f"answer: {format_value(text)} is not the index, letter or text of any of the choices")
    return readings.pop()
