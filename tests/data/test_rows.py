"""Rows of every kind of file, one at a time and unchanged; and the faults of files without rows."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_mm.data import text_rows
from lora_mm.data.rows import find_rows
from lora_mm.data.tables import TableRows, load_hub_table
from lora_mm.data.text_rows import FileRows
from lora_mm.errors import InputError

ROWS = [
    {"id": "2", "question": "Which?\nOf these", "answer": "None"},
    {"id": "3", "question": "Größe 🙂", "answer": "NA"},
    {"id": "4", "question": 'say "so", please', "answer": "null"},
]
KINDS = (
    "jsonl",
    "json",
    "indented.json",
    "lines.json",
    "csv",
    "tsv",
    "semicolon.csv",
    "parquet",
    "bom.json",
    "bom.csv",
)


def write(folder: Path, kind: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    import csv

    file = folder / f"rows.{kind}"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if kind == "parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(file)
    elif kind.endswith(("csv", "tsv")):
        divider = {"tsv": "\t", "semicolon.csv": ";"}.get(kind, ",")
        encoding = "utf-8-sig" if kind.startswith("bom") else "utf-8"
        with file.open("w", newline="", encoding=encoding) as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter=divider)
            writer.writeheader()
            writer.writerows(rows)
    elif kind in ("jsonl", "lines.json"):
        file.write_text(lines, encoding="utf-8")
    else:
        text = json.dumps(rows, indent=2 if kind.startswith("indented") else None, ensure_ascii=False)
        file.write_text(text, encoding="utf-8-sig" if kind.startswith("bom") else "utf-8")
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_rows_as_they_stand(kind: str, tmp_path: Path) -> None:
    rows = find_rows(str(write(tmp_path, kind)), "train").rows
    assert [dict(rows[number]) for number in (2, 0, 1)] == [ROWS[2], ROWS[0], ROWS[1]]
    assert len(rows) == 3
    assert dict(pickle.loads(pickle.dumps(rows))[1]) == ROWS[1], "as workers get them where they are not forked"


def test_rows_are_called_by_their_line(tmp_path: Path) -> None:
    assert find_rows(str(write(tmp_path, "jsonl")), "train").rows.where(2) == "rows.jsonl:3"
    assert find_rows(str(write(tmp_path, "csv")), "train").rows.where(1) == "rows.csv:4", "the first has two lines"
    assert find_rows(str(write(tmp_path, "indented.json")), "train").rows.where(1) == "rows.indented.json:7"
    assert find_rows(str(write(tmp_path, "parquet")), "train").rows.where(1) == "rows.parquet:1"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), min_size=1, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
    chunk=st.sampled_from([1, 7, 64]),
)
def test_a_list_is_divided_as_a_parser_would_however_it_is_cut_into_pieces(
    rows: list[dict[str, Any]], indent: int | None, ascii: bool, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = json.dumps(rows, indent=indent).encode()
    file = tmp_path_factory.mktemp("list") / "rows.json"
    file.write_bytes(encoded)
    before, text_rows._CHUNK = text_rows._CHUNK, chunk
    try:
        found = text_rows._index_json_list(file)
    finally:
        text_rows._CHUNK = before
    assert [found[number] for number in range(len(found))] == rows


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"id": 1', "not JSON"),
        ("[1]", "a JSON list, not an object"),
        ('{"id": 1} {"id": 2}', "not JSON: Extra data at line 1 column 11"),
        ('{"id": 1, "id": 2}', "duplicate key 'id'"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "\udcff"}', "not UTF-8 text"),
    ],
)
def test_a_broken_line_is_a_fault_of_its_row_alone(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"id": 0}\n\n' + text.encode("utf-8", "surrogateescape") + b'\n{"id": 9}')
    rows = find_rows(str(file), "train").rows
    assert [len(rows), rows[0], rows[2], rows.where(1)] == [3, {"id": 0}, {"id": 9}, "rows.jsonl:3"]
    with pytest.raises(InputError, match=fault):
        rows[1]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.json", '[{"a": 1}, {"a": 2', r"a\.json:1: not JSON: .*cut off"),
        ("a.json", '[{"a": 1},\n {"a": 2}', r"a\.json:2: not JSON: the file is cut off"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a\.json:2: not JSON: Expecting ':'"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"a\.json:2: not JSON: missing comma"),
        ("a.json", '{"data":\n[{"a": 1}]}', "one JSON object, not a list of rows"),
        ("a.json", "what", "neither a JSON list"),
        ("a.jsonl", "\n\n", "no rows"),
        ("a.csv", 'a,b\n1,"2\n3,4\n', "not CSV: .*quotation mark"),
        ("a.csv", "a,a\n1,2\n", "duplicate column 'a'"),
        ("a.txt", "hello", "unknown file type. Known: .jsonl"),
        ("a.parquet", "hello", "not a complete Parquet file"),
    ],
)
def test_a_file_without_rows_says_where_and_why(name: str, text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=fault):
        find_rows(str(tmp_path / name), "train")


def test_csv_rows_of_another_width_are_faults(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1\n1,2,3\n")
    rows = find_rows(str(tmp_path / "a.csv"), "train").rows
    assert rows[0] == {"a": "1", "b": "2"}
    for row, count in ((1, 1), (2, 3)):
        with pytest.raises(InputError, match=f"{count} cells, but the header has 2 columns: a, b"):
            rows[row]


# --- folders -------------------------------------------------------------------------------------------------------


def test_folders_are_divided_by_their_files_names(tmp_path: Path) -> None:
    for name, rows in (("train.jsonl", ROWS), ("validation.jsonl", ROWS[:1])):
        write(tmp_path, "jsonl", rows).rename(tmp_path / name)
    assert len(find_rows(str(tmp_path), "train").rows) == 3
    found = find_rows(str(tmp_path), "val")
    assert (len(found.rows), found.split, found.root) == (1, "val", tmp_path)
    with pytest.raises(InputError, match=r"no file of split 'test'\. Found: train, validation"):
        find_rows(str(tmp_path), "test")


def test_a_folder_of_pictures_has_a_metadata_file(tmp_path: Path) -> None:
    for split, rows in (("train", ROWS), ("test", ROWS[:2])):
        (tmp_path / split).mkdir()
        write(tmp_path, "csv", rows).rename(tmp_path / split / "metadata.csv")
    assert [len(find_rows(str(tmp_path), split).rows) for split in ("train", "test")] == [3, 2]
    assert find_rows(str(tmp_path), "test").root == tmp_path / "test"
    alone = find_rows(str(tmp_path / "train"), "train")
    assert (len(alone.rows), alone.split) == (3, None)


def test_shards_and_saved_sets_are_tables(tmp_path: Path) -> None:
    import datasets

    for shard in range(2):
        write(tmp_path, "parquet").rename(tmp_path / f"train-0000{shard}-of-00002.parquet")
    rows = find_rows(str(tmp_path), "train").rows
    assert isinstance(rows, TableRows)
    assert len(rows) == 6
    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(saved)
    assert dict(find_rows(str(saved), "train").rows[1]) == ROWS[1]
    with pytest.raises(InputError, match=r"no split 'test'.* It has: train"):
        find_rows(str(saved), "test")


def test_pictures_in_tables_come_as_they_are_stored(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    picture = Image.new("RGB", (4, 3), "red")
    features = datasets.Features({"id": datasets.Value("string"), "images": datasets.List(datasets.Image())})
    datasets.Dataset.from_dict({"id": ["a"], "images": [[picture, picture]]}, features).to_parquet(
        tmp_path / "a.parquet"
    )
    [one, two] = find_rows(str(tmp_path / "a.parquet"), "train").rows[0]["images"]
    assert one["bytes"].startswith(b"\x89PNG")
    assert set(two) == {"bytes", "path"}


def test_sources_without_rows_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file or folder 'nix\.jsonl', and it is not an id on the Hub"):
        find_rows("nix.jsonl", "train")
    with pytest.raises(InputError, match=r"Found: no .jsonl, .json"):
        find_rows(str(tmp_path), "train")
    with pytest.raises(InputError, match="cannot be loaded from the Hugging Face Hub"):
        find_rows("somebody/something", "train")


def test_streaming_brings_the_first_rows_only(tmp_path: Path) -> None:
    """A folder stands for the Hub here: ``datasets`` reads both by the same path."""
    write(tmp_path, "parquet").rename(tmp_path / "train.parquet")
    table = load_hub_table(str(tmp_path), "train", limit=2)
    assert table.to_list() == ROWS[:2]
    with pytest.raises(InputError, match=r"no split 'tran'\. Did you mean 'train'\? It has: train"):
        load_hub_table(str(tmp_path), "tran")


def test_indices_are_twelve_bytes_a_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Which?", "answer": "this"}\n' * 1000)
    rows = find_rows(str(file), "train").rows
    assert isinstance(rows, FileRows)
    assert rows.starts.itemsize + rows.lines.itemsize == 12
