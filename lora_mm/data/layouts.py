"""The table of layouts: the fields that each needs, and the function that reads it. Knows no files and no model.

A layout is detected from the columns. Nothing is guessed: if several layouts or columns fit, the message says how to
choose.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_mm.data.cells import read_id
from lora_mm.data.conversation_layouts import read_conversations, read_messages
from lora_mm.data.example import LETTERS, Example
from lora_mm.data.question_layouts import read_multiple_choice, read_question_answer
from lora_mm.data.row_context import RowContext
from lora_mm.errors import InputError, suggest_name
from lora_mm.recipe.columns import COLUMNS, OPTIONAL


@dataclass(frozen=True)
class Layout:
    """What the columns of rows mean.

    Attributes:
        needs: fields that every row has (keys of :data:`COLUMNS`).
        lacks: fields that no row has; rows with one of them have another layout.
        read: (context of the source, field → value, id) → example.
        sample: a sample row, for messages.
    """

    needs: tuple[str, ...]
    lacks: tuple[str, ...]
    read: Callable[[RowContext, Mapping[str, Any], str], Example]
    sample: str


LAYOUTS: Mapping[str, Layout] = {
    "messages": Layout(
        needs=("messages",),
        lacks=(),
        read=read_messages,
        sample='{"messages": [{"role": "user", "content": …}, …], "images": […]}',
    ),
    "conversations": Layout(
        needs=("conversations",),
        lacks=(),
        read=read_conversations,
        sample='{"conversations": [{"from": "human", "value": "<image>…"}, …], "image": …}',
    ),
    "multiple_choice": Layout(
        needs=("question", "choices", "answer"),
        lacks=(),
        read=read_multiple_choice,
        sample='{"question": …, "choices": […], "answer": 1, "image": …}',
    ),
    "question_answer": Layout(
        needs=("question", "answer"),
        lacks=("choices",),
        read=read_question_answer,
        sample='{"question": …, "answer": …, "image": …}',
    ),
    "caption": Layout(
        needs=("answer", "image"),
        lacks=("question", "choices"),
        read=read_question_answer,
        sample='{"file_name": …, "text": …}, and the question in data.question',
    ),
}
"""Name in ``data.layout`` → layout. ``scienceqa`` is not in it: it has a loader of its own."""


@dataclass(frozen=True)
class RowReader:
    """Turns rows into examples.

    Attributes:
        layout: a key of :data:`LAYOUTS`.
        columns: field → its column, for columns that have none of the field's known names.
        context: settings that all rows of the source share.
        detected: whether the layout was detected by the columns of some rows, so that it must be checked in all.
    """

    layout: str
    columns: Mapping[str, str]
    context: RowContext
    detected: bool = False

    def __call__(self, row: Mapping[str, Any], default_id: str) -> Example:
        """Read a row.

        Args:
            row: column → value.
            default_id: id of the example if the row has none.

        Raises:
            InputError: all faults of the row, one line each; the caller adds the name of the row.
        """
        values: dict[str, Any] = {}
        faults: list[str] = []
        for field in self._fields:
            try:
                values |= self._read_field(field, row)
            except InputError as error:
                faults += error.faults
        if not faults and self.detected:
            faults += self._find_other_layouts(row)
        if faults:
            raise InputError(*faults)
        id = read_id(values.get("id"), default_id)
        return LAYOUTS[self.layout].read(self.context, values, id)

    @property
    def _fields(self) -> Iterable[str]:
        return dict.fromkeys((*LAYOUTS[self.layout].needs, *OPTIONAL))

    def _read_field(self, field: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Find ``{field: value}`` in a row; empty if an optional field is missing."""
        needed = field in LAYOUTS[self.layout].needs
        names = self._list_names(field)
        present = [name for name in names if name in row]
        filled = [name for name in present if row[name] not in (None, "", [])]
        # An empty column of a needed field counts: a caption must not replace an empty answer.
        rivals = present if needed else filled
        if len(rivals) > 1:
            raise InputError(
                f"{field}: found in {' and '.join(rivals)}; choose one: --set data.columns.{field}={rivals[0]}"
            )
        if present:
            return {field: row[(filled or present)[0]]}
        if field == "choices" and len(columns := _find_choice_columns(row)) > 1:
            return {field: [row[column] for column in columns if row[column] not in (None, "")]}
        if needed:
            raise InputError(f"{names[0]}: the field is missing")
        return {}

    def _find_other_layouts(self, row: Mapping[str, Any]) -> list[str]:
        """Say if the filled columns of a row fit another layout than that of the first rows."""
        filled = [name for name, value in row.items() if value not in (None, "", [])]
        candidates = {field: [name for name in names if name in filled]
                      for field, names in _find_columns(filled, self.columns).items()}  # fmt: skip
        needed = all(candidates[field] for field in LAYOUTS[self.layout].needs)
        others = [name for name, layout in LAYOUTS.items() if name != self.layout and _fits(layout, candidates)]
        if not needed or not others:  # an empty field is a fault of its own
            return []
        return [
            f"data.layout: the row has the columns of {' and '.join(others)}, but the first rows those of "
            f"{self.layout}; put rows of each layout into a file of their own, or set data.layout={self.layout} for all"
        ]

    def find_unread(self, columns: Sequence[str]) -> list[str]:
        """Find the columns that no field is read from."""
        read = {name for field in self._fields for name in self._list_names(field)}
        if "choices" in self._fields and not any(name in columns for name in self._list_names("choices")):
            read |= {*_find_choice_columns(columns)}
        return [name for name in columns if name not in read]

    def _list_names(self, field: str) -> tuple[str, ...]:
        """List the columns that can hold a field."""
        return (self.columns[field],) if field in self.columns else COLUMNS[field]


def detect_layout(columns: Sequence[str], named: Mapping[str, str], layout: str = "auto") -> str:
    """Find the layout of rows, a key of :data:`LAYOUTS`.

    Args:
        columns: names of the columns.
        named: field → its column, from ``data.columns``.
        layout: ``data.layout``: a key of :data:`LAYOUTS`, or ``auto`` to detect it from the columns.

    Raises:
        InputError: no layout fits, several fit, or several columns fit a field; says how to choose.
    """
    candidates = _find_columns(columns, named)
    seen = f"Columns: {', '.join(columns)}."
    faults = [
        f"data.columns.{field}: the rows have no column '{column}'.{suggest_name(column, list(columns))}"
        for field, column in named.items()
        if column not in columns
    ]
    fits = [name for name in LAYOUTS if _fits(LAYOUTS[name], candidates)] if layout == "auto" else [layout]
    if not fits:
        samples = "".join(f"\n  {name}: {row.sample}" for name, row in LAYOUTS.items())
        faults.append(
            f"data.layout: no layout fits. {seen} Name the columns, for example --set data.columns.question=NAME, or "
            f"write the rows in one of these layouts:{samples}"
        )
    elif len(fits) > 1:
        faults.append(f"data.layout: {' and '.join(fits)} fit. {seen} Choose one: --set data.layout={fits[0]}.")
    else:
        faults += _find_column_faults(fits[0], candidates, seen)
    if faults:
        raise InputError(*faults)
    return fits[0]


def _find_columns(columns: Sequence[str], named: Mapping[str, str]) -> dict[str, list[str]]:
    """Find the candidate columns of every field."""
    candidates = {field: [name for name in known if name in columns] for field, known in COLUMNS.items()}
    candidates |= {field: [column] for field, column in named.items()}
    candidates["choices"] = candidates["choices"] or _find_choice_columns(columns)
    return candidates


def _find_choice_columns(columns: Iterable[str]) -> list[str]:
    """Find columns named A, B, …, which hold one choice each, as in MMBench."""
    return [letter for letter in LETTERS if letter in columns] if {"A", "B"} <= set(columns) else []


def _fits(layout: Layout, candidates: Mapping[str, Sequence[str]]) -> bool:
    return all(candidates[field] for field in layout.needs) and not any(candidates[field] for field in layout.lacks)


def _find_column_faults(layout: str, candidates: Mapping[str, Sequence[str]], seen: str) -> list[str]:
    """Find the fields of a layout that several columns fit, or none."""
    needs = LAYOUTS[layout].needs
    several = [
        f"data.columns.{field}: {' and '.join(candidates[field])} fit. Choose one: "
        f"--set data.columns.{field}={candidates[field][0]}."
        for field in dict.fromkeys((*needs, *OPTIONAL))
        if len(candidates[field]) > 1 and field != "choices"
    ]
    missing = [
        f"data.columns.{field}: layout {layout} needs it, and no column fits. {seen}"
        for field in needs
        if not candidates[field]
    ]
    return [*several, *missing]
