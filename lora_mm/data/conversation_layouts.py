"""Reads rows that hold a conversation: ``messages`` and ``conversations``. Knows values; knows no columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_mm.data.cells import format_value, read_text
from lora_mm.data.example import PICTURE, Example, ImageSource, Role, Turn
from lora_mm.data.row_context import MARK, RowContext, describe_mark_mismatch
from lora_mm.errors import InputError

_ROLES: Mapping[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}


def read_messages(context: RowContext, values: Mapping[str, Any], id: str) -> Example:
    """Read a row in the form of chat APIs.

    Args:
        context: settings that all rows of the source share.
        values: ``messages``, optionally ``image``.
        id: id of the example.

    Raises:
        InputError: all faults of the row.
    """
    return _read_conversation(context, values["messages"], values.get("image"), id)


def read_conversations(context: RowContext, values: Mapping[str, Any], id: str) -> Example:
    """Read a row in LLaVA's form.

    Args:
        context: settings that all rows of the source share.
        values: ``conversations``, optionally ``image``.
        id: id of the example.

    Raises:
        InputError: all faults of the row.
    """
    return _read_conversation(context, values["conversations"], values.get("image"), id)


def _read_conversation(context: RowContext, raw_turns: Any, image: Any, id: str) -> Example:
    if not isinstance(raw_turns, list) or not raw_turns:
        raise InputError(f"{format_value(raw_turns)} is not a list of turns")
    unplaced = list(context.pictures.read_cell(image))
    listed = len(unplaced)
    turns: list[Turn] = []
    faults: list[str] = []
    marks = 0
    for number, raw_turn in enumerate(raw_turns):
        try:
            turn = _read_turn(context, raw_turn, unplaced)
        except InputError as error:
            faults += [f"turn {number}: {fault}" for fault in error.faults]
            continue
        marks += turn.text.count(PICTURE)
        faults += [f"turn {number}: {fault}" for fault in _find_turn_faults(turn, turns)]
        turns.append(context.make_user_turn(turn.text, turn.images) if turn.role == "user" else turn)
    pictures = sum(len(turn.images) for turn in turns) + len(unplaced)
    if not faults and (marks != pictures or unplaced):
        faults.append(describe_mark_mismatch(marks, max(pictures, listed)))
    if not faults and turns[-1].role != "assistant":
        faults.append("the last turn is the user's: no answer to learn")
    if faults:
        raise InputError(*faults)
    *history, question, answer = turns
    return Example(id, question.text, answer.text, question.images, history=tuple(history))


def _find_turn_faults(turn: Turn, before: Sequence[Turn]) -> Iterator[str]:
    if turn.role != "user" and (turn.images or PICTURE in turn.text):
        yield f"a picture in the {turn.role}'s turn; only the user's turns can have pictures"
    expected = ("user", "system") if not before else ("user",) if before[-1].role != "user" else ("assistant",)
    if turn.role not in expected:
        yield f"role is {turn.role}, expected {' or '.join(expected)}"


def _read_turn(context: RowContext, raw_turn: Any, unplaced: list[ImageSource]) -> Turn:
    """Read one turn; its text has a ``PICTURE`` for each mark.

    Args:
        context: settings that all rows of the source share.
        raw_turn: value of the turn in the row.
        unplaced: pictures of the row without a mark so far; the marks of this turn remove the first of them.
    """
    if not isinstance(raw_turn, Mapping):
        raise InputError(f"{format_value(raw_turn)} is not an object with role and content")
    role = _read_role(raw_turn.get("role", raw_turn.get("from")))
    content = raw_turn.get("content", raw_turn.get("value"))
    if isinstance(content, str):
        text = read_text("content", content).replace(MARK, PICTURE)
        count = min(text.count(PICTURE), len(unplaced))
        return Turn(role, text, tuple(unplaced.pop(0) for _ in range(count)))
    if not isinstance(content, list):
        raise InputError(f"content: {format_value(content)} is neither text nor a list of parts")
    pieces, pictures = [], []
    for part in content:
        piece, picture = _read_part(context, part, unplaced)
        pieces.append(piece)
        pictures += [picture] if picture is not None else []
    text = "\n".join(piece for piece in pieces if piece)
    if not text:
        raise InputError("content: empty")
    return Turn(role, text, tuple(pictures))


def _read_role(name: Any) -> Role:
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InputError(f"unknown role {format_value(name)}. Known: {', '.join(_ROLES)}")
    return role


def _read_part(context: RowContext, part: Any, unplaced: list[ImageSource]) -> tuple[str, ImageSource | None]:
    """Read a part of a turn's content as text, and as a picture if it is one and one is left."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return read_text("text", part.get("text"), allow_empty=True), None
    if kind not in ("image", "image_url"):
        raise InputError(f"content: {format_value(part)} is not a part of type text or image")
    named = next((part[key] for key in ("image", "image_url", "path", "url", "bytes") if part.get(key)), None)
    if named is not None:
        return PICTURE, context.pictures.read_picture(named)
    return PICTURE, unplaced.pop(0) if unplaced else None
