"""Reads ScienceQA's rows from the official folder, from Parquet files or from the Hub. Knows nothing of prompts.

Each form becomes a :class:`ProblemTable`. Its rows are unchecked, except for what only the form can tell: the ids of a
split, and where a problem's picture is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_mm.data.cells import format_value
from lora_mm.data.example import ImageCell, ImageSource
from lora_mm.data.rows import is_hub_id
from lora_mm.data.tables import load_hub_table, read_parquet_columns, read_parquet_tables
from lora_mm.errors import InputError, suggest_name, truncate_faults
from lora_mm.hub_access import root_cause
from lora_mm.json_text import read_json_file
from lora_mm.paths import resolve_path

if TYPE_CHECKING:
    import datasets

OWN_SPLITS = ("train", "val", "test")
"""The splits that divide the problems; each problem names its own."""
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
"""Official split → the splits that its problems name as their own."""

HUB_SPLITS = ("train", "val", "test", "trainval")
"""The splits of the copy on the Hub. It has no mini splits; only pid_splits.json lists their problems."""

_OWN_NAMES = {"train": "train", "validation": "val", "val": "val", "test": "test"}
"""Name of a Parquet file or its folder → own split."""


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """A row as read. Its fields are unchecked; its picture, which each form stores in its own way, is found.

    Attributes:
        id: id of the problem.
        fields: name → value, as read.
        has_image: whether the row names a picture.
        image: the picture; None if there is none, it is missing, or pictures are not wanted.
        faults: faults that only the form can find.
    """

    id: str
    fields: Mapping[str, Any]
    has_image: bool
    image: ImageSource | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProblemTable:
    """The rows of one split, in order.

    Attributes:
        where: name of the table in messages.
        rows: number of rows.
        read: reads the rows.
        describe_picture: id of a problem → where its picture should be, for messages.
        captions: the file of captions beside the problems, if there is one.
        faults: faults of the split as a whole.
    """

    where: str
    rows: int
    read: Callable[[], Iterator[ProblemRow]]
    describe_picture: Callable[[str], str]
    captions: Path | None = None
    faults: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ProblemRow]:
        return self.read()


def is_scienceqa(source: str, split: str) -> bool:
    """Whether ``source`` is ScienceQA: the official folder, or a table with its columns.

    Args:
        source: a file, a folder or an id on the Hub.
        split: split whose columns to read, for a data set on the Hub.

    Raises:
        UnreachableError: a data set on the Hub cannot be loaded.
    """
    path = resolve_path(source, "data.path")
    if _is_official_folder(path):
        return True
    files = (
        [path] if path.is_file() and path.suffix == ".parquet" else _list_parquet_files(path) if path.is_dir() else []
    )
    if files:
        columns = read_parquet_columns(files[0])
    elif not path.exists() and is_hub_id(source):
        columns = load_hub_table(source, COMPOSITION.get(split, (split,))[0]).column_names
    else:
        return False
    return {*TEXT_FIELDS, "choices", "answer"} <= set(columns)


def locate_table(source: str | Path) -> Callable[[str, bool], ProblemTable]:
    """Find the form of a source.

    Args:
        source: the official folder, a Parquet file or a folder of them, or an id on the Hub.

    Returns:
        A function from (split, whether to look for pictures) to the split's rows.

    Raises:
        InputError: the source is none of these; says which files were expected.
    """
    path = resolve_path(source, "data.path")
    if path.is_dir():
        if _is_official_folder(path):
            return lambda split, pictures: _read_official_folder(path, split, pictures)
        if files := _list_parquet_files(path):
            return lambda split, pictures: _read_parquet(path, files, split, pictures)
        raise InputError(
            f"{path}: no ScienceQA data in this folder; expected problems.json and pid_splits.json, "
            f"or Parquet files there, in data/ and in {', '.join(f'{name}/' for name in _OWN_NAMES)}"
        )
    if path.is_file():
        if path.suffix == ".parquet":
            return lambda split, pictures: _read_parquet(path, [path], split, pictures)
        raise InputError(f"{path}: neither a folder nor a .parquet file; give the folder that holds problems.json")
    if isinstance(source, str) and is_hub_id(source):
        return lambda split, pictures: _read_hub(source, split, pictures)
    raise InputError(f"{path}: no such folder; expected problems.json, pid_splits.json and images/, or Parquet files")


def _is_official_folder(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in ("problems.json", "pid_splits.json"))


def _read_official_folder(root: Path, split: str, pictures: bool) -> ProblemTable:
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
    ids, faults = _check_ids(splits[split], split, problems, root / "pid_splits.json")

    def list_picture_files(id: str, fields: Mapping[str, Any]) -> list[Path]:
        folders = (root / "images", root)  # as the authors describe it, and as their archive is unpacked
        return [folder / fields["split"] / id / fields["image"] for folder in folders]

    def read() -> Iterator[ProblemRow]:
        for id in ids:
            fields = problems[id]
            row_faults = tuple(_find_official_faults(id, fields, split))
            named = not row_faults and bool(fields["image"])
            wanted = named and pictures and fields.get("split") in OWN_SPLITS
            files = list_picture_files(id, fields) if wanted else []
            image = next((file for file in files if file.is_file()), None)
            yield ProblemRow(id, fields, named, image, row_faults)

    captions = root / "captions.json"
    return ProblemTable(
        where=str(where),
        rows=len(ids),
        read=read,
        describe_picture=lambda id: " or ".join(str(file) for file in list_picture_files(id, problems[id])),
        captions=captions if captions.exists() else None,
        faults=tuple(faults),
    )


def _check_ids(listed: object, split: str, problems: Mapping[str, Any], where: Path) -> tuple[list[str], list[str]]:
    """Return the ids of the split that can be read, and the faults of the others."""
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


def _find_official_faults(id: str, fields: Mapping[str, Any], split: str) -> Iterator[str]:
    """Find the faults that only the official folder has: the name of the picture, the split."""
    if "image" not in fields:
        yield "image: the field is missing (null means no picture)"
    elif (image := fields["image"]) is not None:
        if not isinstance(image, str):
            yield f"image: {format_value(image)} is neither a file name nor null"
        elif image and not all(_is_plain_name(part) for part in (image, id)):
            yield f"image: '{image}' of problem '{id}' is outside the problem's own folder"
    own_split = fields.get("split")
    # The authors' script counts by own split.
    if own_split in OWN_SPLITS and own_split not in COMPOSITION.get(split, OWN_SPLITS):
        yield f"split: '{own_split}', but pid_splits.json lists it in '{split}'"


def _is_plain_name(name: str) -> bool:
    return name not in (".", "..") and not {"/", "\\", "\0"} & set(name)


_PARQUET_FOLDERS = ((".",), ("data",), tuple(_OWN_NAMES))
"""Folders with the Parquet files of a copy. Only the first that has any is read, so that no row is read twice."""


def _list_parquet_files(root: Path) -> list[Path]:
    for folders in _PARQUET_FOLDERS:
        if files := sorted(file for folder in folders for file in (root / folder).glob("*.parquet")):
            return files
    return []


def _get_split(file: Path) -> str | None:
    """Get the split of a Parquet file from its name (``train-00000-of-00001-1028f23e.parquet``) or its folder."""
    names = (re.match(r"[a-z]+", file.name), re.fullmatch(r"[a-z]+", file.parent.name))
    return next((_OWN_NAMES[m.group()] for m in names if m and m.group() in _OWN_NAMES), None)


def _list_own_splits(split: str, where: str) -> tuple[str, ...]:
    if split not in HUB_SPLITS:
        raise InputError(
            f"{where}: no split '{split}' in this form of the data.{suggest_name(split, HUB_SPLITS)} "
            f"It has: {', '.join(HUB_SPLITS)}; only the official folder has the mini splits"
        )
    return COMPOSITION[split]


def _read_parquet(source: Path, files: Sequence[Path], split: str, pictures: bool) -> ProblemTable:
    own_splits = _list_own_splits(split, str(source))
    by_split: dict[str, list[Path]] = {}
    faults = []
    for file in files:
        if own := _get_split(file):
            by_split.setdefault(own, []).append(file)
        else:
            faults.append(f"{file}: no split in its name; call it train-….parquet, validation-… or test-…")
    faults += [
        f"{source}: no Parquet file of split '{own}'. Found: {', '.join(by_split) or 'none'}"
        for own in own_splits
        if own not in by_split and not faults
    ]
    if faults:
        raise InputError(*truncate_faults(faults))

    return _make_table({own: read_parquet_tables(by_split[own]) for own in own_splits}, str(source), pictures)


def _read_hub(name: str, split: str, pictures: bool) -> ProblemTable:
    tables = {own: load_hub_table(name, own) for own in _list_own_splits(split, name)}
    return _make_table(tables, name, pictures)


def _make_table(tables: Mapping[str, "datasets.Dataset"], where: str, pictures: bool) -> ProblemTable:
    """Make one table of those in the Hub's form. Pictures stay in the memory-mapped tables until they are opened."""
    import datasets
    import pyarrow
    from pyarrow import compute

    faults = [
        f"{where}, split '{own}': the column '{column}' is missing"
        for own, table in tables.items()
        for column in (*TEXT_FIELDS, "choices", "answer", "image")
        if column not in table.column_names
    ]
    if faults:
        raise InputError(*truncate_faults(faults))

    try:
        pictures_of = {
            own: table.select_columns("image").cast_column("image", datasets.Image(decode=False))
            for own, table in tables.items()
        }
    except (pyarrow.ArrowException, TypeError) as error:
        raise InputError(f"{where}: cannot be read as ScienceQA ({root_cause(error)})") from error

    def read() -> Iterator[ProblemRow]:
        for own, table in tables.items():
            images = pictures_of[own]
            column = images.data.column("image")
            named = column.is_valid().to_pylist()
            stored = compute.struct_field(column, "bytes").is_valid().to_pylist()
            texts = table.remove_columns("image").to_list()
            for index, fields in enumerate(texts):
                id = f"{own}-{index}"
                present = pictures and named[index] and stored[index]
                cell = ImageCell(images, index, "image", f"{id} in {where}") if present else None
                yield ProblemRow(id, {**fields, "split": own}, named[index], cell)

    return ProblemTable(
        where=where,
        rows=sum(len(table) for table in tables.values()),
        read=read,
        describe_picture=lambda id: f"the bytes in column 'image', row {id.rpartition('-')[2]}",
    )
