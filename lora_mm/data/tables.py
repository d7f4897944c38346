"""Rows of Parquet files, saved data sets and the Hub, memory-mapped by ``datasets``. Knows no layouts."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_mm.errors import InputError, suggest_name
from lora_mm.hub_access import UnreachableError, connection_error, root_cause

if TYPE_CHECKING:
    import datasets

SPLIT_NAMES = {"val": ("val", "validation", "valid", "dev")}
"""Split → its names in files, in folders and on the Hub, for splits with several names."""


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a memory-mapped table. Pictures are not decoded: they are ``{bytes, path}``, as stored.

    Attributes:
        name: name of the table in messages.
        table: the table.
    """

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
        """Name a row for messages: ``name:row``, counted from 0."""
        return f"{self.name}:{row}"


def read_parquet_columns(file: Path) -> list[str]:
    """Read the names of a Parquet file's columns.

    Raises:
        InputError: the file is not a complete Parquet file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(file).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a complete Parquet file ({str(error).splitlines()[0]})") from error


class MissingSplitError(InputError):
    """A source has no rows of a split."""


def read_parquet_tables(files: Sequence[Path]) -> "datasets.Dataset":
    """Read Parquet files as one memory-mapped table.

    Raises:
        InputError: a file is not complete, or its columns differ from those of the first file.
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


def load_saved_table(folder: Path, split: str) -> tuple[TableRows, bool]:
    """Load a data set saved by ``datasets``.

    Args:
        folder: folder written by ``save_to_disk``.
        split: name of the split; any of :data:`SPLIT_NAMES`.

    Returns:
        The rows, and whether the data set is divided into splits.

    Raises:
        InputError: the data set is divided and has no such split.
    """
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.Dataset):
        return TableRows(folder.name, loaded), False
    name = _find_split(str(folder), split, list(loaded))
    return TableRows(f"{folder.name}/{name}", loaded[name]), True


def load_hub_table(name: str, split: str, *, limit: int | None = None) -> "datasets.Dataset":
    """Load a split of a data set on the Hub as a memory-mapped table.

    Args:
        name: id of the data set on the Hub.
        split: name of the split; any of :data:`SPLIT_NAMES`.
        limit: number of rows to stream, from the first; None downloads the split.

    Raises:
        UnreachableError: neither the Hub nor the cache has the data set.
        InputError: the data set has no such split, or access is denied.
    """
    import datasets

    offline_reason = connection_error()
    try:
        with _offline(offline_reason is not None):
            known = _find_split(name, split, datasets.get_dataset_split_names(name))
            if limit is None:
                return datasets.load_dataset(name, split=known)
            stream = datasets.load_dataset(name, split=known, streaming=True).take(limit)
            return datasets.Dataset.from_generator(lambda: iter(stream), features=stream.features)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError(
            f"'{name}' is neither a local folder nor a data set on the Hugging Face Hub that you can read; private and "
            "gated data sets need a token in HF_TOKEN"
        ) from error
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise UnreachableError(
            f"data '{name}' is not a local folder and cannot be loaded from the Hugging Face Hub "
            f"({offline_reason or root_cause(error)})"
        ) from error


def _find_split(source: str, split: str, known: Sequence[str]) -> str:
    name = next((name for name in SPLIT_NAMES.get(split, (split,)) if name in known), None)
    if name is None:
        raise MissingSplitError(
            f"{source}: no split '{split}'.{suggest_name(split, known)} It has: {', '.join(known)}."
        )
    return name


@contextlib.contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Make ``datasets`` use only its cache, like ``HF_HUB_OFFLINE=1``, which it reads only at import."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
