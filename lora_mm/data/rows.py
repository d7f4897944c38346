"""Finds the rows of a source and reads them one at a time. Knows file formats, not the meaning of a row.

Text files are read in place (``text_rows``); Parquet and the Hub are memory-mapped (``tables``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lora_mm.data.tables import (
    SPLIT_NAMES,
    MissingSplitError,
    TableRows,
    load_hub_table,
    load_saved_table,
    read_parquet_tables,
)
from lora_mm.data.text_rows import FILE_READERS
from lora_mm.errors import InputError, suggest_name
from lora_mm.paths import resolve_path

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SUFFIXES = (*FILE_READERS, ".parquet")


class Rows(Protocol):
    """Rows by number. Reading a broken row raises InputError with the fault, without the name of the row."""

    @property
    def name(self) -> str:
        """Name of the rows, for messages."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Mapping[str, Any]: ...

    def where(self, row: int) -> str:
        """Name a row for messages: ``file:line``, or ``table:row`` counted from 0."""
        ...


@dataclass(frozen=True)
class LocatedRows:
    """The rows of a source.

    Attributes:
        rows: the rows.
        split: their split; None if the source is not divided into splits.
        root: folder that picture paths are relative to.
    """

    rows: Rows
    split: str | None
    root: Path


def find_rows(source: str, split: str, *, limit: int | None = None) -> LocatedRows:
    """Find the rows of a split.

    Args:
        source: a file (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``); a folder with files named by split
            (``train.jsonl``, ``test-00000-of-00002.parquet``, ``train/metadata.csv``), with a ``metadata`` file beside
            pictures, or with one such file; a data set saved by ``datasets``; or an id on the Hub.
        split: name of the split.
        limit: number of rows to stream from the Hub, from the first; None downloads the split.

    Raises:
        InputError: the source has no rows (says what was expected), or its file cannot be divided into rows.
    """
    path = resolve_path(source, "data.path")
    if path.is_file():
        return LocatedRows(_read_files((path,)), None, path.parent)
    if path.is_dir():
        return _find_in_folder(path, split)
    if is_hub_id(source):
        return LocatedRows(TableRows(source, load_hub_table(source, split, limit=limit)), split, Path())
    raise InputError(f"data.path: no file or folder '{source}', and it is not an id on the Hub (owner/name).")


def is_hub_id(source: str) -> bool:
    """Whether ``source``, which is not a local file or folder, has the form of a Hub id."""
    return bool(_HUB_ID.fullmatch(source)) and not source.lower().endswith(_SUFFIXES)


def _read_files(files: Sequence[Path]) -> Rows:
    suffix = files[0].suffix.lower()
    if suffix == ".parquet":
        return TableRows(files[0].name if len(files) == 1 else files[0].parent.name, read_parquet_tables(files))
    if suffix not in FILE_READERS:
        raise InputError(f"{files[0]}: unknown file type. Known: {', '.join(_SUFFIXES)}.")
    if len(files) > 1:
        raise InputError(
            f"{files[0].parent}: {len(files)} {suffix} files for one split; join them, or list them in data.sources."
        )
    try:
        rows = FILE_READERS[suffix](files[0])
    except OSError as error:
        raise InputError(f"{files[0]}: {error.strerror or error}") from error
    if not len(rows):
        raise InputError(f"{files[0]}: no rows.")
    return rows


def _find_in_folder(folder: Path, split: str) -> LocatedRows:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        saved, divided = load_saved_table(folder, split)
        return LocatedRows(saved, split if divided else None, folder)
    by_split = _group_by_split(folder)
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in by_split:
            files = by_split[name]
            return LocatedRows(_read_files(files), split, files[0].parent if files[0].stem == "metadata" else folder)
    if undivided := _find_undivided(folder, by_split):
        return LocatedRows(_read_files(undivided), None, undivided[0].parent)
    splits = ", ".join(sorted(by_split)) or "no .jsonl, .json, .csv, .tsv or .parquet file"
    raise MissingSplitError(
        f"{folder}: no file of split '{split}'.{suggest_name(split, list(by_split))} Found: {splits}. "
        "Name files by split (train.jsonl), or give one file as data.path."
    )


def _list_files(folder: Path) -> list[Path]:
    return [file for parent in (folder, folder / "data") for file in sorted(parent.glob("*")) if _is_data(file)]


def _group_by_split(folder: Path) -> dict[str, list[Path]]:
    """Group the files of a folder by the split in their names, and ``metadata`` files by the name of their folder."""
    groups: dict[str, list[Path]] = {}
    for file in _list_files(folder):
        groups.setdefault(re.split(r"[-_.]", file.name)[0].lower(), []).append(file)
    for file in sorted(folder.glob("*/metadata.*")):
        if _is_data(file):
            groups.setdefault(file.parent.name.lower(), []).append(file)
    return groups


def _find_undivided(folder: Path, by_split: Mapping[str, list[Path]]) -> list[Path]:
    """Find the files of a folder that is not divided into splits; none if a file is named by a split."""
    if any(name in names for name in by_split for names in (("train", "test"), *SPLIT_NAMES.values())):
        return []
    files = _list_files(folder)
    alone = len(files) == 1 or all(file.suffix.lower() == ".parquet" for file in files)
    return by_split.get("metadata") or (files if alone else [])


def _is_data(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES and file.is_file()
