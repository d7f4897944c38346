"""Rows of data files, read one at a time. Knows file formats; knows nothing of what a row means.

JSON, JSON lines and CSV are indexed in one pass (12 bytes a row) and read where they lie: ``datasets`` would want one
schema for a whole file (it makes the id ``"2"`` a number beside others), turn a CSV's ``None`` and ``NA`` into nothing,
and not say which row is broken. Parquet and the Hub are read by ``datasets``, memory-mapped.
"""

import codecs
import contextlib
import csv
import io
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from lora_mm.errors import InputError, nearest
from lora_mm.hub import Unreachable, cause, trouble

if TYPE_CHECKING:
    import datasets

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SPLIT_NAMES = {"val": ("val", "validation", "valid", "dev")}
"""A split's names in files, folders and on the Hub, where they are more than its own."""

_CHUNK = 1 << 20


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
class Found:
    """The rows at a place.

    Attributes:
        split: the split that they are; None where the place does not divide its rows.
        root: the folder from which pictures' paths go out.
    """

    rows: Rows
    split: str | None
    root: Path


def find_rows(source: str, split: str, *, limit: int | None = None) -> Found:
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
        return Found(_read((path,)), None, path.parent)
    if path.is_dir():
        return _in_folder(path, split)
    if is_hub_id(source):
        return Found(TableRows(source, hub_table(source, split, limit=limit)), split, Path())
    raise InputError(f"data.path: no file or folder '{source}', and it is not an id on the Hub (owner/name).")


def is_hub_id(source: str) -> bool:
    """Whether ``source``, which is no file or folder here, has the form of an id on the Hub."""
    return bool(_HUB_ID.fullmatch(source)) and not source.lower().endswith(_KINDS)


# --- text files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of one text file: where each begins, and how one is read."""

    path: Path
    starts: array
    """Byte at which each row begins, and the file's end: one more than there are rows."""
    lines: array
    """Line on which each row begins, from 1."""
    parse: Callable[[str], Mapping[str, Any]]

    @property
    def name(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        with self.path.open("rb") as stream:  # for each row: workers share no place in a file
            stream.seek(self.starts[row])
            encoded = stream.read(self.starts[row + 1] - self.starts[row])
        try:
            return self.parse(encoded.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 text (byte {error.start} of the row)") from error

    def where(self, row: int) -> str:
        return f"{self.name}:{self.lines[row]}"


def parse_object(text: str) -> dict[str, Any]:
    """One JSON object; a key that is there twice is a fault, since a plain parser keeps the last in silence."""
    text = text.strip()
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}, at character {error.pos + 1}") from error
    except RecursionError as error:
        raise InputError("not JSON that can be read: nested too deeply") from error
    if not isinstance(value, dict):
        raise InputError(f"not an object with named fields, but {type(value).__name__}")
    if text[end:].strip() not in ("", ","):  # of a list's item the comma is part
        raise InputError(f"not JSON: something follows the object, {text[end:].strip()[:20]!r}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise InputError(f"the key '{twice[0]}' is there twice")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _json_lines(path: Path) -> FileRows:
    starts, lines = array("Q"), array("I")
    place = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                starts.append(place + len(line) - len(content))
                lines.append(number)
            place += len(line)
    starts.append(place)
    return FileRows(path, starts, lines, parse_object)


def _json_file(path: Path) -> FileRows:
    """A list of objects; or lines of objects, which many call ``.json`` too."""
    with path.open("rb") as stream:
        begin = stream.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"["):
        return _json_list(path)
    if begin.startswith(b"{"):
        with contextlib.suppress(InputError, UnicodeDecodeError):
            parse_object(begin.splitlines()[0].decode("utf-8"))
            return _json_lines(path)
        raise InputError(f"{path}: one JSON object, not a list of rows; write [{{…}}, {{…}}], or an object a line.")
    raise InputError(f"{path}: neither a JSON list of rows nor an object a line.")


class _Scanner:
    """A text file passed over in pieces. ``place`` and ``line`` are the byte and the line of ``text[at]``."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.line = stream, "", 0, 1
        self.place = len(codecs.BOM_UTF8) if stream.read(3) == codecs.BOM_UTF8 else 0
        stream.seek(self.place)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def more(self) -> bool:
        """Forget what was passed over and read on, as much again as is left; False at the file's end."""
        chunk = self.stream.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + self._decode(chunk, final=not chunk), 0
        return bool(chunk)

    def to(self, end: int) -> None:
        """Pass over ``text`` up to ``end``."""
        passed = self.text[self.at : end]
        self.place += len(passed) if passed.isascii() else len(passed.encode())
        self.line += passed.count("\n")
        self.at = end

    def next(self) -> str:
        """The next character that is no space, not passed over; empty at the file's end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in " \t\r\n":
                end += 1
            self.to(end)
            if end < len(self.text):
                return self.text[end]
            if not self.more():
                return ""


def _json_list(path: Path) -> FileRows:
    """Places of the list's items, found without keeping them: LLaVA's 665,000 conversations are a file of 1 GB."""
    starts, lines = array("Q"), array("I")
    cut = "not JSON: the file ends in the middle, it was cut off"
    with path.open("rb") as stream:
        scan = _Scanner(stream)
        try:
            scan.next()
            scan.to(scan.at + 1)  # the bracket
            while scan.next() not in ("]", ""):
                starts.append(scan.place)
                lines.append(scan.line)
                scan.to(_item_end(scan, path))
                if scan.next() == ",":
                    scan.to(scan.at + 1)
                elif scan.next() != "]":
                    raise InputError(f"{path.name}:{scan.line}: {'not JSON: no comma here' if scan.next() else cut}")
            if not scan.next():
                raise InputError(f"{path.name}:{scan.line}: {cut}")
        except UnicodeDecodeError as error:
            raise InputError(f"{path.name}:{scan.line}: not UTF-8 text in the lines behind this") from error
        starts.append(scan.place)
    return FileRows(path, starts, lines, parse_object)


def _item_end(scan: _Scanner, path: Path) -> int:
    """Where the JSON value at the scanner ends in its text."""
    while True:
        try:
            return json.JSONDecoder().raw_decode(scan.text, scan.at)[1]
        except json.JSONDecodeError as error:
            # Cut by the piece's end rather than wrong: what is read then goes on, if the file does.
            cut = error.msg.startswith("Unterminated string") or error.pos >= len(scan.text) - 12
            if not (cut and scan.more()):
                line = scan.line + scan.text.count("\n", scan.at, error.pos)
                ended = "; the file ends in the middle, it was cut off" if cut else ""
                raise InputError(f"{path.name}:{line}: not JSON: {error.msg}{ended}") from error


def _csv_file(path: Path) -> FileRows:
    """A header and rows of as many cells; every cell is text. The header's most frequent of , ; and tab divides."""
    starts, lines = array("Q"), array("I")
    place = number = 0

    with path.open("rb") as stream:

        def decoded() -> Iterator[str]:
            nonlocal place, number
            for line in stream:
                place += len(line)
                number += 1
                # A faulty row must not end the pass: it is named when it is read.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")

        first = stream.readline().decode("utf-8-sig", errors="replace")
        stream.seek(0)
        divider = max(",;\t", key=first.count)
        reader = csv.reader(decoded(), delimiter=divider, strict=True)
        try:
            header = next(reader, [])
            while True:
                begin, line = place, number + 1
                cells = next(reader, None)
                if cells is None:
                    break
                if cells:
                    starts.append(begin)
                    lines.append(line)
        except csv.Error as error:
            raise InputError(
                f"{path.name}:{number}: not CSV: {error} (a quotation mark that is not closed?)"
            ) from error
    starts.append(place)
    twice = [name for name, count in Counter(header).items() if count > 1]
    if not header or twice:
        what = f"two columns are called '{twice[0]}'" if twice else "no header line"
        raise InputError(f"{path.name}:1: {what}; the first line names the columns.")

    def parse(text: str) -> dict[str, str]:
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True))
        if len(cells) != len(header):
            raise InputError(f"{len(cells)} cells, but the header has {len(header)} columns: {', '.join(header)}")
        return dict(zip(header, cells, strict=True))

    return FileRows(path, starts, lines, parse)


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


def parquet_columns(file: Path) -> list[str]:
    """Names of a Parquet file's columns; InputError for one that is not whole."""
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(file).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a whole Parquet file ({str(error).splitlines()[0]})") from error


def parquet_table(files: Sequence[Path]) -> "datasets.Dataset":
    """Parquet files as one memory-mapped table.

    Raises:
        InputError: naming the file that is not whole, or whose columns are not those of the first.
    """
    import datasets
    import pyarrow

    for file in files:
        parquet_columns(file)
    try:
        return datasets.load_dataset("parquet", data_files={"rows": [str(file) for file in files]}, split="rows")
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException, TypeError) as error:
        raise InputError(
            f"{files[0].parent}: its Parquet files cannot be read as one table ({cause(error)})"
        ) from error


def hub_table(name: str, split: str, *, limit: int | None = None) -> "datasets.Dataset":
    """A split of a data set on the Hub as a memory-mapped table.

    Args:
        split: by any of its :data:`SPLIT_NAMES`.
        limit: stream the first so many rows, and keep those only.

    Raises:
        Unreachable: when neither the Hub nor the cache has it; InputError for another split or no access.
    """
    import datasets

    silent = trouble()
    try:
        with _offline(silent is not None):
            known = datasets.get_dataset_split_names(name)
            there = next((other for other in SPLIT_NAMES.get(split, (split,)) if other in known), None)
            if there is None:
                raise InputError(f"{name}: no split '{split}'.{nearest(split, known)} It has: {', '.join(known)}.")
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
        raise Unreachable(
            f"data '{name}' is no folder here, and not to be had from the Hugging Face Hub ({silent or cause(error)})"
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

_READERS: Mapping[str, Callable[[Path], FileRows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _csv_file,
    ".tsv": _csv_file,
}
_KINDS = (*_READERS, ".parquet")


def _read(files: Sequence[Path]) -> Rows:
    kind = files[0].suffix.lower()
    if kind == ".parquet":
        return TableRows(files[0].name if len(files) == 1 else files[0].parent.name, parquet_table(files))
    if kind not in _READERS:
        raise InputError(f"{files[0]}: not a kind of file that is read; those are {', '.join(_KINDS)}.")
    if len(files) > 1:
        raise InputError(f"{files[0].parent}: {len(files)} {kind} files for one split; join them, or list them as "
                         "data.sources.")  # fmt: skip
    try:
        rows = _READERS[kind](files[0])
    except OSError as error:
        raise InputError(f"{files[0]}: {error.strerror or error}") from error
    if not len(rows):
        raise InputError(f"{files[0]}: no rows.")
    return rows


def _in_folder(folder: Path, split: str) -> Found:
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
            return Found(_read(found), split, found[0].parent if found[0].stem == "metadata" else folder)
    undivided = by_split.get("metadata") or (files if len(files) == 1 or _all_parquet(files) else [])
    known = [name for name in by_split if any(name in names for names in (("train", "test"), *SPLIT_NAMES.values()))]
    if undivided and not known:
        return Found(_read(undivided), None, undivided[0].parent)
    seen = ", ".join(sorted(by_split)) or "no .jsonl, .json, .csv, .tsv or .parquet file"
    raise InputError(
        f"{folder}: no rows of split '{split}'.{nearest(split, list(by_split))} There is: {seen}. Name files by split "
        "(train.jsonl), or give one file as data.path."
    )


def _saved(folder: Path, split: str) -> Found:
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.Dataset):
        return Found(TableRows(folder.name, loaded), None, folder)
    for name in SPLIT_NAMES.get(split, (split,)):
        if name in loaded:
            return Found(TableRows(f"{folder.name}/{name}", loaded[name]), split, folder)
    raise InputError(f"{folder}: no split '{split}'.{nearest(split, list(loaded))} It has: {', '.join(loaded)}.")


def _is_data(file: Path) -> bool:
    return file.suffix.lower() in _KINDS and file.is_file()


def _all_parquet(files: Sequence[Path]) -> bool:
    return bool(files) and all(file.suffix.lower() == ".parquet" for file in files)
