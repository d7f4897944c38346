"""A source as a sequence of examples, each read on access. Knows layouts; knows no recipe and no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from lora_mm.data.cells import PictureFolder
from lora_mm.data.example import Example
from lora_mm.data.layouts import RowReader, detect_layout
from lora_mm.data.row_context import AnswerForm, Response, RowContext
from lora_mm.data.rows import Rows, find_rows
from lora_mm.errors import InputError, name_place, truncate_faults

_ROWS_FOR_COLUMNS = 200
"""Number of rows of a text file whose columns decide its layout."""


@dataclass(frozen=True)
class Source:
    """The rows of one source, as examples.

    Attributes:
        rows: the raw records.
        reader: turns a row into an example.
        split: split of the rows; None if the source is not divided into splits.
        prefix: prefix of every id, to tell sources apart.
        repeated_ids: row with a duplicate id → the first row with that id.
    """

    rows: Rows
    reader: RowReader
    split: str | None
    prefix: str = ""
    repeated_ids: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        """Read the example of a row; InputError names the row."""
        where = self.rows.where(row)
        with name_place(where):
            example = self.reader(self.rows[row], where)
            if row in self.repeated_ids:
                raise InputError(f"id: '{example.id}' is already the id of {self.rows.where(self.repeated_ids[row])}")
        return replace(example, id=self.prefix + example.id) if self.prefix else example

    def find_unread_columns(self) -> list[str]:
        """Find the columns of the first rows that the layout does not read."""
        return self.reader.find_unread(_list_columns(self.rows))


def open_source(
    path: str,
    split: str,
    *,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    image_root: Path | None = None,
    question: str | None = None,
    response: Response = "none",
    answer: AnswerForm | None = None,
    stream: int | None = None,
    prefix: str = "",
) -> Source:
    """Open the rows of a split in the layout that fits their columns.

    Args:
        path: a file, a folder or an id on the Hub; see :func:`~lora_mm.data.rows.find_rows`.
        split: name of the split.
        layout: name of a layout, or ``auto``; see :func:`~lora_mm.data.layouts.detect_layout`.
        columns: field → its column, for columns that have none of the field's known names.
        image_root: folder that picture paths are relative to; by default the folder of the file.
        question: question for rows that have none.
        response: response format; see :class:`~lora_mm.data.row_context.RowContext`.
        answer: how the rows of multiple choice name the right choice; None if in any form that is not ambiguous.
        stream: number of rows to stream from the Hub, from the first; None downloads the split.
        prefix: prefix of every id.

    Raises:
        InputError: the source has no rows, or no layout or several layouts fit them.
    """
    located = find_rows(path, split, limit=stream)
    named = dict(columns or {})
    with name_place(path):
        known = detect_layout(_list_columns(located.rows), named, layout)
        if known == "caption" and not question:
            raise InputError("the rows are captions without questions; set data.question.")
        if answer and known != "multiple_choice":
            raise InputError(f"data.answer: has no effect on rows of layout {known}; remove it.")
    context = RowContext(PictureFolder(image_root or located.root), question, response, answer)
    reader = RowReader(known, named, context, detected=layout == "auto")
    return Source(located.rows, reader, located.split, prefix)


def _list_columns(rows: Rows) -> list[str]:
    """List the columns of a table, or of the first rows of a text file; InputError if none of these can be read."""
    table = getattr(rows, "table", None)
    if table is not None:
        return list(table.column_names)
    names: dict[str, None] = {}
    faults: list[str] = []
    for row in range(min(_ROWS_FOR_COLUMNS, len(rows))):
        try:
            names |= dict.fromkeys(rows[row])
        except InputError as error:  # reported when all rows are read
            faults += [f"{rows.where(row)}: {fault}" for fault in error.faults]
    if not names and faults:
        raise InputError(*truncate_faults(faults))
    return list(names)


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """Examples of several sources as one sequence; each example is read on access.

    Attributes:
        sources: the sources.
        positions: ``[examples, 2]``: index of the source and row in it, for each example.
    """

    sources: Sequence[Source]
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def where(self, number: int) -> str:
        """Name an example's row for messages: file and line."""
        source, row = self.positions[number]
        return self.sources[source].rows.where(int(row))

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> "Examples": ...
    def __getitem__(self, number: int | slice) -> "Example | Examples":
        if isinstance(number, slice):
            return Examples(self.sources, self.positions[number])
        source, row = self.positions[number]
        return self.sources[source][int(row)]
