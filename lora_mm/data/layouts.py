"""How rows of people's own data become examples: a table of layouts. Knows fields; knows no files and no model.

A layout is recognised by its columns. Nothing is guessed: a row that could be read in two ways, or a picture whose
place is not told, is a fault that says how to tell.
"""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lora_mm.data.example import PICTURE, Example, ImageSource, Role, Turn
from lora_mm.errors import InputError, suggest_name
from lora_mm.recipe.columns import COLUMNS, OPTIONAL

Response = Literal["none", "short", "letter"]

RESPONSES: Mapping[str, str] = {
    "none": "",
    "short": "Answer the question using a single word or phrase.",
    "letter": "Answer with the option's letter from the given choices directly.",
}
"""What is asked for at the end of every user's turn, in the words of LLaVA-1.5 (Liu et al. 2024, section 3.2)."""

LETTERS = string.ascii_uppercase
MARK = "<image>"
"""Stands for a picture in a text of people's data, as LLaVA has it."""


@dataclass(frozen=True)
class Layout:
    """A form of rows.

    Attributes:
        needs: what its rows have (keys of :data:`COLUMNS`).
        lacks: what they do not have: with it, they are of another layout.
        read: makes an example of a row's values, by what they are.
        looks: a row, for messages.
    """

    needs: tuple[str, ...]
    lacks: tuple[str, ...]
    read: Callable[["RowReader", Mapping[str, Any], str], Example]
    looks: str


@dataclass(frozen=True)
class RowReader:
    """Turns rows into examples.

    Attributes:
        layout: a key of :data:`LAYOUTS`.
        columns: what is read → the column that holds it, where it is not found by its known names.
        root: the folder that pictures' paths go out from and must not leave.
        question: asked of rows that carry none.
        response: a key of :data:`RESPONSES`.
    """

    layout: str
    columns: Mapping[str, str]
    root: Path
    question: str | None = None
    response: Response = "none"
    _top: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "_top", os.path.normpath(self.root.absolute()))

    def __call__(self, fields: Mapping[str, Any], name: str) -> Example:
        """The example that a row is.

        Args:
            name: its id, where it has none of its own.

        Raises:
            InputError: everything wrong with the row, a fault a line, without saying which row it is.
        """
        values: dict[str, Any] = {}
        faults: list[str] = []
        for what in dict.fromkeys((*LAYOUTS[self.layout].needs, *OPTIONAL)):
            try:
                values |= self._value(what, fields)
            except InputError as error:
                faults += error.faults
        if faults:
            raise InputError(*faults)
        id = _id(values.get("id"), name)
        return LAYOUTS[self.layout].read(self, values, id)

    def _value(self, what: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """``{what: value}``, or nothing where the row need not have it and has not."""
        known = (self.columns[what],) if what in self.columns else COLUMNS[what]
        there = [name for name in known if name in fields]
        filled = [name for name in there if fields[name] not in (None, "", [])]
        several = there if what in LAYOUTS[self.layout].needs else filled  # an empty answer is no reason for a caption
        if len(several) > 1:
            raise InputError(f"{what}: in {' and '.join(several)}; say which by --set data.columns.{what}={several[0]}")
        if there:
            return {what: fields[(filled or there)[0]]}
        if what == "choices" and len(columns := _choice_columns(fields)) > 1:
            return {what: [fields[column] for column in columns if fields[column] not in (None, "")]}
        if what in LAYOUTS[self.layout].needs:
            raise InputError(f"{known[0]}: the field is missing")
        return {}

    def pictures(self, value: Any) -> tuple[ImageSource, ...]:
        """The pictures of an image cell: a path, bytes, ``{bytes, path}``, a list of those, or nothing."""
        if value is None or value == "" or value == []:
            return ()
        return tuple(self.picture(item) for item in (value if isinstance(value, list) else [value]))

    def picture(self, value: Any) -> ImageSource:
        """One picture; its file is looked for but not opened."""
        if isinstance(value, Mapping):
            if isinstance(encoded := value.get("bytes"), bytes):
                return encoded
            value = next((value[key] for key in ("path", "url") if value.get(key)), value)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise InputError(f"image: {_shown(value)} is neither a path nor a picture's bytes")
        if re.match(r"(https?|data|s3|gs):", value):
            raise InputError(f"image: {_shown(value)} is no file; bring the picture here and give its path")
        if "\0" in value:
            raise InputError(f"image: {_shown(value)} is no path")
        # By name alone: links inside the folder are its owner's, '..' in a row is not.
        path = os.path.normpath(os.path.join(self._top, value))
        if path != self._top and not path.startswith(self._top.rstrip(os.sep) + os.sep):
            raise InputError(
                f"image: '{value}' leads out of {self.root}; if pictures lie elsewhere, say so by data.image_root"
            )
        if not os.path.isfile(path):
            raise InputError(f"image: no file '{value}' in {self.root} (data.image_root says where paths go out from)")
        return Path(path)

    def asked(self, text: str) -> str:
        """A user's text with what the source's response format asks for."""
        suffix = RESPONSES[self.response]
        return f"{text}\n{suffix}" if suffix and text else text + suffix


def detect_layout(columns: Sequence[str], named: Mapping[str, str], layout: str = "auto") -> str:
    """The layout of rows with these columns, a key of :data:`LAYOUTS`.

    Args:
        named: what is read → its column, as ``data.columns`` says.
        layout: what ``data.layout`` says.

    Raises:
        InputError: when no layout fits, or several do, or a column could be several: what was seen, and how to say it.
    """
    faults = [
        f"data.columns.{what}: the rows have no column '{column}'.{suggest_name(column, list(columns))}"
        for what, column in named.items()
        if column not in columns
    ]
    there = {what: [name for name in known if name in columns] for what, known in COLUMNS.items()}
    there |= {what: [column] for what, column in named.items()}
    there["choices"] = there["choices"] or _choice_columns(columns)
    fits = [name for name in LAYOUTS if _fits(LAYOUTS[name], there)] if layout == "auto" else [layout]
    seen = f"Columns seen: {', '.join(columns)}."
    if not fits:
        looks = "".join(f"\n  {name}: {row.looks}" for name, row in LAYOUTS.items())
        faults.append(
            f"data.layout: none fits. {seen} Say which column is what, such as --set data.columns.question=NAME, or "
            f"write rows as one of{looks}"
        )
    elif len(fits) > 1:
        faults.append(f"data.layout: fits {' and '.join(fits)}. {seen} Say which: --set data.layout={fits[0]}.")
    else:
        needs = LAYOUTS[fits[0]].needs
        faults += [
            f"data.columns.{what}: {' and '.join(there[what])} could be it. Say which: "
            f"--set data.columns.{what}={there[what][0]}."
            for what in dict.fromkeys((*needs, *OPTIONAL))
            if len(there[what]) > 1 and what != "choices"
        ]
        faults += [f"data.columns.{what}: layout {fits[0]} needs a column for it. {seen}" for what in needs
                   if not there[what]]  # fmt: skip
    if faults:
        raise InputError(*faults)
    return fits[0]


def _choice_columns(columns: Iterable[str]) -> list[str]:
    """Columns called A, B, … that hold a choice each, as in MMBench."""
    return [letter for letter in LETTERS if letter in columns] if {"A", "B"} <= set(columns) else []


def _fits(layout: Layout, there: Mapping[str, Sequence[str]]) -> bool:
    return all(there[what] for what in layout.needs) and not any(there[what] for what in layout.lacks)


# --- texts ---------------------------------------------------------------------------------------------------------

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def _check_text(name: str, text: str) -> None:
    """Raise InputError for what no text should hold: control characters, halves of characters, our own mark."""
    if PICTURE in text:
        raise InputError(f"{name}: holds the character U+FFFC, which stands for a lost object; take it out")
    if found := _NOT_TEXT.search(text):
        place = f"U+{ord(found.group()):04X}, at character {found.start() + 1}"
        raise InputError(f"{name}: holds the control character {place}")


def _text(name: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}: {_shown(value)} is not text")
    _check_text(name, value)
    if not empty and not value.strip():
        raise InputError(f"{name}: empty")
    return value.strip()


def _id(value: Any, name: str) -> str:
    if isinstance(value, str):
        _check_text("id", value)
    if value is None or value == "":
        return name
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"id: {_shown(value)} is neither text nor a whole number")


def _placed(text: str, pictures: Sequence[ImageSource]) -> Turn:
    """A user's turn: pictures where the text marks them. Marks that lead are left out, as that is where they go."""
    marked = text.replace(MARK, PICTURE).strip()
    rest = marked.lstrip(PICTURE + " \t\r\n")
    if PICTURE not in rest:
        marked = rest
    return Turn("user", marked, tuple(pictures))


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=lambda item: type(item).__name__)
    return text if len(text) <= 40 else f"{text[:39]}…"


# --- layouts -------------------------------------------------------------------------------------------------------

_ROLES: Mapping[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}


def _messages(reader: RowReader, values: Mapping[str, Any], id: str) -> Example:
    return _conversation(reader, values["messages"], values, id)


def _conversations(reader: RowReader, values: Mapping[str, Any], id: str) -> Example:
    return _conversation(reader, values["conversations"], values, id)


def _conversation(reader: RowReader, said: Any, values: Mapping[str, Any], id: str) -> Example:
    if not isinstance(said, list) or not said:
        raise InputError(f"{_shown(said)} is not a list of turns")
    left = list(reader.pictures(values.get("image")))
    given = len(left)
    turns: list[Turn] = []
    faults: list[str] = []
    marks = 0
    for number, item in enumerate(said):
        try:
            role, text, shown = _turn(reader, item, left)
        except InputError as error:
            faults += [f"turn {number}: {fault}" for fault in error.faults]
            continue
        marks += text.count(PICTURE)
        if role != "user" and (shown or PICTURE in text):
            faults.append(f"turn {number}: a picture in the {role}'s turn, which only a user's can have")
        expected = ("user", "system") if not turns else ("user",) if turns[-1].role != "user" else ("assistant",)
        if role not in expected:
            faults.append(f"turn {number}: is the {role}'s, where {' or '.join(expected)} should speak")
        if role == "user":
            placed = _placed(text, shown)
            turns.append(replace(placed, text=reader.asked(placed.text)))
        else:
            turns.append(Turn(role, text))
    pictures = sum(len(turn.images) for turn in turns) + len(left)
    if not faults and (marks != pictures or left):
        faults.append(f"{marks} {MARK} mark{'s' * (marks != 1)} for {max(pictures, given)} pictures")
    if not faults and turns[-1].role != "assistant":
        faults.append("ends with the user's turn: no answer to learn")
    if faults:
        raise InputError(*faults)
    *history, question, answer = turns
    return Example(id, question.text, answer.text, question.images, history=tuple(history))


def _turn(reader: RowReader, item: Any, left: list[ImageSource]) -> tuple[Role, str, list[ImageSource]]:
    """Role, text with a mark a picture, and the pictures, of which those without a place of their own are ``left``."""
    if not isinstance(item, Mapping):
        raise InputError(f"{_shown(item)} is not an object with role and content")
    named = item.get("role", item.get("from"))
    role = _ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        raise InputError(f"role: {_shown(named)} is none of {', '.join(_ROLES)}")
    content = item.get("content", item.get("value"))
    shown: list[ImageSource] = []
    if isinstance(content, str):
        text = _text("content", content, empty=False).replace(MARK, PICTURE)
        shown = [left.pop(0) for _ in range(min(text.count(PICTURE), len(left)))]
        return role, text, shown
    if not isinstance(content, list):
        raise InputError(f"content: {_shown(content)} is neither text nor a list of parts")
    pieces = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            pieces.append(_text("text", part.get("text"), empty=True))
        elif kind in ("image", "image_url"):
            pieces.append(PICTURE)
            own = next((part[key] for key in ("image", "image_url", "path", "url", "bytes") if part.get(key)), None)
            if own is not None:
                shown.append(reader.picture(own))
            elif left:
                shown.append(left.pop(0))
        else:
            raise InputError(f"content: {_shown(part)} is no part of type text or image")
    text = "\n".join(piece for piece in pieces if piece)
    if not text:
        raise InputError("content: empty")
    return role, text, shown


def _question_answer(reader: RowReader, values: Mapping[str, Any], id: str) -> Example:
    turn = _asked(reader, values)
    target, references = _answers(values["answer"])
    return Example(id, reader.asked(turn.text), target, turn.images, references=references)


def _asked(reader: RowReader, values: Mapping[str, Any], below: str = "") -> Turn:
    """The user's turn of a plain row: context, question, what stands below it; its pictures."""
    question = values.get("question", reader.question)
    if question is None:
        raise InputError("question: none in the row, and data.question says none for all")
    context = _text("context", values.get("context") or "", empty=True)
    pictures = reader.pictures(values.get("image"))
    text = "\n".join(line for line in (context, _text("question", question), below) if line)
    marks = text.count(MARK)
    if marks and marks != len(pictures):
        raise InputError(f"{marks} {MARK} mark{'s' * (marks != 1)} for {len(pictures)} pictures")
    return _placed(text, pictures)


def _answers(value: Any) -> tuple[str, tuple[str, ...]]:
    """What to learn and what counts as right: of several people's answers, the most frequent, and all."""
    if not isinstance(value, list):
        return _text("answer", value), ()
    if not value:
        raise InputError("answer: an empty list")
    texts = [_text("answer", item.get("answer") if isinstance(item, Mapping) else item) for item in value]
    return Counter(texts).most_common(1)[0][0], tuple(texts)


def _multiple_choice(reader: RowReader, values: Mapping[str, Any], id: str) -> Example:
    choices = _choices(values["choices"])
    right = _right(values["answer"], choices)
    turn = _asked(
        reader, values, "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))
    )
    candidates = tuple(LETTERS[: len(choices)]) if reader.response == "letter" else choices
    target = candidates[right]
    return Example(id, reader.asked(turn.text), target, turn.images, candidates, references=(target,), answer=right)


def _choices(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):  # a CSV's cell
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise InputError(f'choices: {_shown(value)} is no list; write ["one", "two"]') from None
    if not isinstance(value, list):
        raise InputError(f"choices: {_shown(value)} is not a list")
    if not 2 <= len(value) <= len(LETTERS):
        raise InputError(f"choices: {len(value)}, must be 2 to {len(LETTERS)}")
    texts = tuple(_text(f"choices: number {number}", item) for number, item in enumerate(value))
    if len(set(texts)) < len(texts):
        raise InputError(f"choices: '{Counter(texts).most_common(1)[0][0]}' is there twice")
    return texts


def _right(value: Any, choices: Sequence[str]) -> int:
    """Index of the right choice, told by index from 0, by letter, or in its own words."""
    if type(value) is int:
        if not 0 <= value < len(choices):
            raise InputError(
                f"answer: {value} is out of range, there are {len(choices)} choices (0 to {len(choices) - 1})"
            )
        return value
    text = _text("answer", value)
    readings = {choices.index(text)} if text in choices else set()
    letter = re.fullmatch(r"\(?([A-Z])[).]?", text)
    if letter and LETTERS.index(letter[1]) < len(choices):
        readings.add(LETTERS.index(letter[1]))
    if not readings and re.fullmatch(r"\d+", text) and int(text) < len(choices):
        readings = {int(text)}
    if len(readings) > 1:
        raise InputError(f"answer: {_shown(text)} is the letter of one choice and the words of another; give the index")
    if not readings:
        raise InputError(f"answer: {_shown(text)} is no index, letter or text of the {len(choices)} choices")
    return readings.pop()


LAYOUTS: Mapping[str, Layout] = {
    "messages": Layout(
        needs=("messages",),
        lacks=(),
        read=_messages,
        looks='{"messages": [{"role": "user", "content": …}, …], "images": […]}',
    ),
    "conversations": Layout(
        needs=("conversations",),
        lacks=(),
        read=_conversations,
        looks='{"conversations": [{"from": "human", "value": "<image>…"}, …], "image": …}',
    ),
    "multiple_choice": Layout(
        needs=("question", "choices", "answer"),
        lacks=(),
        read=_multiple_choice,
        looks='{"question": …, "choices": […], "answer": 1, "image": …}',
    ),
    "question_answer": Layout(
        needs=("question", "answer"),
        lacks=("choices",),
        read=_question_answer,
        looks='{"question": …, "answer": …, "image": …}',
    ),
    "caption": Layout(
        needs=("answer", "image"),
        lacks=("question", "choices"),
        read=_question_answer,
        looks='{"file_name": …, "text": …}, and the question in data.question',
    ),
}
"""The layouts by name, as recipes say them; ``scienceqa`` is one more, with a loader of its own."""
