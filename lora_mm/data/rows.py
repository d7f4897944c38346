"""Rows of data files, read one at a time. Knows file formats; knows nothing of what a row means.

Text files are read where they lie (``text_rows``); Parquet and the Hub by ``datasets``, memory-mapped.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_mm.data.text_rows import FILE_READERS
from lora_mm.errors import InputError, suggest_name
from lora_mm.hub_access import UnreachableError, connection_error, root_cause

if TYPE_CHECKING:
    import datasets

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SPLIT_NAMES = {"val": ("val", "validation", "valid", "dev")}
"""A split's names in files, folders and on the Hub, where they are more than its own."""


class Rows(Protocol):
    """Rows by number. Reading one that is broken raises InputError, saying what is wrong but not where."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Mapping[str, Any]: ...

    def where(self, row: int) -> str:
        """``file:line``; of a table ``name:row``, counted from 0."""
        ...


@dataclass(frozen=True)
class LocatedRows:
    """The rows at a place.

    Attributes:
        split: the split that they are; None where the place does not divide its rows.
        root: the folder from which pictures' paths go out.
    """

    rows: Rows
    split: str | None
    root: Path


def find_rows(source: str, split: str, *, limit: int | None = None) -> LocatedRows:
    """The rows of ``split`` at ``source``.

    Args:
        source: a file (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``); a folder with files named by split
            (``train.jsonl``, ``test-00000-of-00002.parquet``, ``train/metadata.csv``), with a ``metadata`` file beside
            pictures, or with one such file; a data set saved by ``datasets``; or an id on the Hub.
        limit: of a data set on the Hub, stream the first so many rows instead of bringing it here whole.

    Raises:
        InputError: for a place without rows, saying what was looked for; for a file that cannot be divided into rows.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return LocatedRows(_read((path,)), None, path.parent)
    if path.is_dir():
        return _in_folder(path, split)
    if is_hub_id(source):
        return LocatedRows(TableRows(source, load_hub_table(source, split, limit=limit)), split, Path())
    raise InputError(f"data.path: no file or folder '{source}', and it is not an id on the Hub (owner/name).")


def is_hub_id(source: str) -> bool:
    """Whether ``source``, which is no file or folder here, has the form of an id on the Hub."""
    return bool(_HUB_ID.fullmatch(source)) and not source.lower().endswith(_KINDS)


# --- tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a memory-mapped table. Pictures come as they are stored, ``{bytes, path}``, not decoded."""

    name: str
    table: "datasets.Dataset"

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _stored(self) -> Any:
        return self.table.with_format("arrow")

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        fields: dict[str, Any] = self._stored[row].to_pylist()[0]
        return fields

    def where(self, row: int) -> str:
        return f"{self.name}:{row}"


def read_parquet_columns(file: Path) -> list[str]:
    """Names of a Parquet file's columns; InputError for one that is not whole."""
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(file).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a whole Parquet file ({str(error).splitlines()[0]})") from error


def read_parquet_tables(files: Sequence[Path]) -> "datasets.Dataset":
    """Parquet files as one memory-mapped table.

    Raises:
        InputError: naming the file that is not whole, or whose columns are not those of the first.
    """
    import datasets
    import pyarrow

    for file in files:
        read_parquet_columns(file)
    try:
        return datasets.load_dataset("parquet", data_files={"rows": [str(file) for file in files]}, split="rows")
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException, TypeError) as error:
        raise InputError(
            f"{files[0].parent}: its Parquet files cannot be read as one table ({root_cause(error)})"
        ) from error


def load_hub_table(name: str, split: str, *, limit: int | None = None) -> "datasets.Dataset":
    """A split of a data set on the Hub as a memory-mapped table.

    Args:
        split: by any of its :data:`SPLIT_NAMES`.
        limit: stream the first so many rows, and keep those only.

    Raises:
        Unreachable: when neither the Hub nor the cache has it; InputError for another split or no access.
    """
    import datasets

    silent = connection_error()
    try:
        with _offline(silent is not None):
            known = datasets.get_dataset_split_names(name)
            there = next((other for other in SPLIT_NAMES.get(split, (split,)) if other in known), None)
            if there is None:
                raise InputError(f"{name}: no split '{split}'.{suggest_name(split, known)} It has: {', '.join(known)}.")
            if limit is None:
                return datasets.load_dataset(name, split=there)
            stream = datasets.load_dataset(name, split=there, streaming=True).take(limit)
            return datasets.Dataset.from_generator(lambda: iter(stream), features=stream.features)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError(
            f"'{name}' is neither a folder here nor a data set on the Hugging Face Hub that may be read without "
            "another token (HF_TOKEN)"
        ) from error
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise UnreachableError(
            f"data '{name}' is no folder here, and not to be had from the Hugging Face Hub "
            f"({silent or root_cause(error)})"
        ) from error


@contextlib.contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Has ``datasets`` look into its cache only, as ``HF_HUB_OFFLINE=1`` does, which it reads when it is imported."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


# --- places --------------------------------------------------------------------------------------------------------

_KINDS = (*FILE_READERS, ".parquet")


def _read(files: Sequence[Path]) -> Rows:
    kind = files[0].suffix.lower()
    if kind == ".parquet":
        return TableRows(files[0].name if len(files) == 1 else files[0].parent.name, read_parquet_tables(files))
    if kind not in FILE_READERS:
        raise InputError(f"{files[0]}: not a kind of file that is read; those are {', '.join(_KINDS)}.")
    if len(files) > 1:
        raise InputError(f"{files[0].parent}: {len(files)} {kind} files for one split; join them, or list them as "
                         "data.sources.")  # fmt: skip
    try:
        rows = FILE_READERS[kind](files[0])
    except OSError as error:
        raise InputError(f"{files[0]}: {error.strerror or error}") from error
    if not len(rows):
        raise InputError(f"{files[0]}: no rows.")
    return rows


def _in_folder(folder: Path, split: str) -> LocatedRows:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _saved(folder, split)
    files = [file for place in (folder, folder / "data") for file in sorted(place.glob("*")) if _is_data(file)]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(re.split(r"[-_.]", file.name)[0].lower(), []).append(file)
    for file in sorted(folder.glob("*/metadata.*")):
        if _is_data(file):
            by_split.setdefault(file.parent.name.lower(), []).append(file)
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in by_split:
            found = by_split[name]
            return LocatedRows(_read(found), split, found[0].parent if found[0].stem == "metadata" else folder)
    undivided = by_split.get("metadata") or (files if len(files) == 1 or _all_parquet(files) else [])
    known = [name for name in by_split if any(name in names for names in (("train", "test"), *SPLIT_NAMES.values()))]
    if undivided and not known:
        return LocatedRows(_read(undivided), None, undivided[0].parent)
    seen = ", ".join(sorted(by_split)) or "no .jsonl, .json, .csv, .tsv or .parquet file"
    raise InputError(
        f"{folder}: no rows of split '{split}'.{suggest_name(split, list(by_split))} There is: {seen}. "
        "Name files by split "
        "(train.jsonl), or give one file as data.path."
    )


def _saved(folder: Path, split: str) -> LocatedRows:
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.Dataset):
        return LocatedRows(TableRows(folder.name, loaded), None, folder)
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in loaded:
            return LocatedRows(TableRows(f"{folder.name}/{name}", loaded[name]), split, folder)
    raise InputError(f"{folder}: no split '{split}'.{suggest_name(split, list(loaded))} It has: {', '.join(loaded)}.")


def _is_data(file: Path) -> bool:
    return file.suffix.lower() in _KINDS and file.is_file()


def _all_parquet(files: Sequence[Path]) -> bool:
    return bool(files) and all(file.suffix.lower() == ".parquet" for file in files)
