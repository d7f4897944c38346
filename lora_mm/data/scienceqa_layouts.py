"""Where ScienceQA's rows lie: the official folder, Parquet files, the Hub. Reads them, and knows nothing of prompts.

Each layout becomes a ``Table`` of rows that are unchecked but for what only the layout can know: the ids of a split,
and where a problem's picture is.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_mm.data.example import ImageCell, ImageSource
from lora_mm.data.rows import is_hub_id, load_hub_table, read_parquet_columns, read_parquet_tables
from lora_mm.errors import InputError, suggest_name, truncate_faults
from lora_mm.hub_access import root_cause

if TYPE_CHECKING:
    import datasets

OWN_SPLITS = ("train", "val", "test")
TEXT_FIELDS = ("question", "hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")

COMPOSITION: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test",),
    "trainval": ("train", "val"),
    "minitrain": ("train",),
    "minival": ("val",),
    "minitest": ("test",),
}
"""The official splits, each with the own splits of its problems."""

HUB_SPLITS = ("train", "val", "test", "trainval")
"""The Hub's copy has no mini splits: which problems they hold stands in pid_splits.json only."""

_OWN_NAMES = {"train": "train", "validation": "val", "val": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """A row as it was read, unchecked but for the picture, which each layout keeps in its own way."""

    id: str
    fields: Mapping[str, Any]
    has_image: bool
    image: ImageSource | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProblemTable:
    """The rows of one split, in order, and what is wrong with the split as a whole."""

    where: str
    rows: int
    read: Callable[[], Iterator[ProblemRow]]
    looked_for: Callable[[str], str]
    """Where a problem's picture should have been, for messages."""
    captions: Path | None = None
    faults: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ProblemRow]:
        return self.read()


def read_json_file(path: Path) -> Any:
    """The file's JSON value.

    Raises:
        InputError: no such file, not text, not JSON (with line and column), cut off, or a key that an object has twice,
            of which a plain parser keeps the last in silence.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return value

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else "; the file ends in the middle, it was cut off"
        raise InputError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}{cut}") from error
    if twice:
        raise InputError(*truncate_faults([f"{path}: key '{key}' is there twice" for key in twice]))
    return value


def format_value(value: object) -> str:
    """A faulty value as messages quote it: in JSON's words, and short."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 40 else f"{text[:39]}…"


def is_scienceqa(source: str, split: str) -> bool:
    """Whether ``source`` is ScienceQA: the official folder, or a table with its columns.

    Args:
        split: to look at, of a data set on the Hub.

    Raises:
        Unreachable: for a data set on the Hub that cannot be had.
    """
    path = Path(source).expanduser()
    if path.is_dir() and any((path / name).exists() for name in ("problems.json", "pid_splits.json")):
        return True
    files = [path] if path.is_file() and path.suffix == ".parquet" else _parquet_files(path) if path.is_dir() else []
    if files:
        columns = read_parquet_columns(files[0])
    elif not path.exists() and is_hub_id(source):
        columns = load_hub_table(source, COMPOSITION.get(split, (split,))[0]).column_names
    else:
        return False
    return {*TEXT_FIELDS, "choices", "answer"} <= set(columns)


def locate_table(source: str | Path) -> Callable[[str, bool], ProblemTable]:
    """The layout that ``source`` is in, as a function from (split, pictures) to its rows."""
    path = Path(source).expanduser()
    if path.is_dir():
        if any((path / name).exists() for name in ("problems.json", "pid_splits.json")):
            return lambda split, pictures: _official(path, split, pictures)
        if files := _parquet_files(path):
            return lambda split, pictures: _from_files(path, files, split, pictures)
        raise InputError(
            f"{path}: no ScienceQA data in this folder; looked for problems.json and pid_splits.json, "
            f"and for Parquet files there, in data/ and in {', '.join(f'{name}/' for name in _OWN_NAMES)}"
        )
    if path.is_file():
        if path.suffix == ".parquet":
            return lambda split, pictures: _from_files(path, [path], split, pictures)
        raise InputError(f"{path}: neither a folder nor a .parquet file; give the folder that holds problems.json")
    if isinstance(source, str) and is_hub_id(source):
        return lambda split, pictures: _from_hub(source, split, pictures)
    raise InputError(
        f"{path}: no such folder; looked there for problems.json, pid_splits.json and images/, or Parquet files"
    )


def _official(root: Path, split: str, pictures: bool) -> ProblemTable:
    where = root / "problems.json"
    problems, splits = read_json_file(where), read_json_file(root / "pid_splits.json")
    if not isinstance(problems, dict):
        raise InputError(f"{where}: must be an object from problem id to problem")
    if not isinstance(splits, dict):
        raise InputError(f"{root / 'pid_splits.json'}: must be an object from split to a list of problem ids")
    if split not in splits:
        raise InputError(
            f"{root / 'pid_splits.json'}: no split '{split}'.{suggest_name(split, list(splits))} "
            f"It has: {', '.join(splits)}"
        )
    ids, faults = _ids(splits[split], split, problems, root / "pid_splits.json")

    def places(id: str, fields: Mapping[str, Any]) -> list[Path]:
        folders = (root / "images", root)  # as the authors describe it, and as their archive unpacks
        return [folder / fields["split"] / id / fields["image"] for folder in folders]

    def read() -> Iterator[ProblemRow]:
        for id in ids:
            fields = problems[id]
            wrong = tuple(_official_faults(id, fields, split))
            named = not wrong and bool(fields["image"])
            sought = places(id, fields) if named and pictures and fields.get("split") in OWN_SPLITS else []
            image = next((place for place in sought if place.is_file()), None)
            yield ProblemRow(id, fields, named, image, wrong)

    captions = root / "captions.json"
    return ProblemTable(
        where=str(where),
        rows=len(ids),
        read=read,
        looked_for=lambda id: " or ".join(str(place) for place in places(id, problems[id])),
        captions=captions if captions.exists() else None,
        faults=tuple(faults),
    )


def _ids(listed: object, split: str, problems: Mapping[str, Any], where: Path) -> tuple[list[str], list[str]]:
    """The split's ids that can be read, and what is wrong with the others."""
    if not isinstance(listed, list):
        raise InputError(f"{where}: split '{split}' is not a list of problem ids")
    ids: dict[str, None] = {}
    faults = []
    for id in listed:
        if not isinstance(id, str):
            faults.append(f"{where}, split '{split}': id {format_value(id)} is not text")
        elif id in ids:
            faults.append(f"{where}, split '{split}': id {id} is listed twice")
        elif id not in problems:
            faults.append(f"{where}, split '{split}': id {id} is not in problems.json")
        elif not isinstance(problems[id], dict):
            faults.append(
                f"{where.with_name('problems.json')}, problem {id}: {format_value(problems[id])} is not an object"
            )
        else:
            ids[id] = None
    return list(ids), faults


def _official_faults(id: str, fields: Mapping[str, Any], split: str) -> Iterator[str]:
    """What is wrong with a problem as an entry of the official folder: its picture's name, its split."""
    if "image" not in fields:
        yield "image: the field is missing (null says that there is none)"
    elif (image := fields["image"]) is not None:
        if not isinstance(image, str):
            yield f"image: {format_value(image)} is neither a file name nor null"
        elif image and not all(_plain(part) for part in (image, id)):
            yield f"image: '{image}' of problem '{id}' does not stay in the problem's own folder"
    own = fields.get("split")
    if own in OWN_SPLITS and own not in COMPOSITION.get(split, OWN_SPLITS):  # the authors' script counts by own split
        yield f"split: '{own}', but pid_splits.json lists it in '{split}'"


def _plain(name: str) -> bool:
    return name not in (".", "..") and not {"/", "\\", "\0"} & set(name)


_PARQUET_FOLDERS = ((".",), ("data",), tuple(_OWN_NAMES))
"""Where the Parquet files of a copy lie: the first of these that has any is taken, so that no row comes twice."""


def _parquet_files(root: Path) -> list[Path]:
    for folders in _PARQUET_FOLDERS:
        if files := sorted(file for folder in folders for file in (root / folder).glob("*.parquet")):
            return files
    return []


def _split_of(file: Path) -> str | None:
    """The split a Parquet file is part of, by its name (``train-00000-of-00001-1028f23e.parquet``) or its folder's."""
    names = (re.match(r"[a-z]+", file.name), re.fullmatch(r"[a-z]+", file.parent.name))
    return next((_OWN_NAMES[m.group()] for m in names if m and m.group() in _OWN_NAMES), None)


def _parts(split: str, where: str) -> tuple[str, ...]:
    if split not in HUB_SPLITS:
        raise InputError(
            f"{where}: no split '{split}' in this layout.{suggest_name(split, HUB_SPLITS)} "
            f"It has: {', '.join(HUB_SPLITS)}; the mini splits come with the official folder only"
        )
    return COMPOSITION[split]


def _from_files(source: Path, files: Sequence[Path], split: str, pictures: bool) -> ProblemTable:
    parts = _parts(split, str(source))
    by_split: dict[str, list[Path]] = {}
    faults = []
    for file in files:
        if own := _split_of(file):
            by_split.setdefault(own, []).append(file)
        else:
            faults.append(f"{file}: its name says no split; call it train-….parquet, validation-… or test-…")
    faults += [
        f"{source}: no Parquet file of split '{part}'; there are: {', '.join(by_split) or 'none'}"
        for part in parts
        if part not in by_split and not faults
    ]
    if faults:
        raise InputError(*truncate_faults(faults))

    return _from_columns({part: read_parquet_tables(by_split[part]) for part in parts}, str(source), pictures)


def _from_hub(name: str, split: str, pictures: bool) -> ProblemTable:
    tables = {part: load_hub_table(name, part) for part in _parts(split, name)}
    return _from_columns(tables, name, pictures)


def _from_columns(tables: Mapping[str, "datasets.Dataset"], where: str, pictures: bool) -> ProblemTable:
    """Rows of the Hub's form. Texts are read at once; pictures stay in the memory-mapped table until opened."""
    import datasets
    import pyarrow
    from pyarrow import compute

    faults = [
        f"{where}, split '{part}': the column '{column}' is missing"
        for part, table in tables.items()
        for column in (*TEXT_FIELDS, "choices", "answer", "image")
        if column not in table.column_names
    ]
    if faults:
        raise InputError(*truncate_faults(faults))

    try:
        pictures_of = {
            part: table.select_columns("image").cast_column("image", datasets.Image(decode=False))
            for part, table in tables.items()
        }
    except (pyarrow.ArrowException, TypeError) as error:
        raise InputError(f"{where}: cannot be read as ScienceQA ({root_cause(error)})") from error

    def read() -> Iterator[ProblemRow]:
        for part, table in tables.items():
            images = pictures_of[part]
            column = images.data.column("image")
            named = column.is_valid().to_pylist()
            stored = compute.struct_field(column, "bytes").is_valid().to_pylist()
            texts = table.remove_columns("image").to_list()
            for index, fields in enumerate(texts):
                id = f"{part}-{index}"
                there = pictures and named[index] and stored[index]
                cell = ImageCell(images, index, "image", f"{id} in {where}") if there else None
                yield ProblemRow(id, {**fields, "split": part}, named[index], cell)

    return ProblemTable(
        where=where,
        rows=sum(len(table) for table in tables.values()),
        read=read,
        looked_for=lambda id: f"the bytes in column 'image', row {id.rpartition('-')[2]}",
    )
