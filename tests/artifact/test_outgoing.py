"""What is sent of an adapter: no path of this machine, no token, nothing behind a link, and all else as it was."""

import getpass
import json
import os
import shutil
from pathlib import Path

import pytest

from lora_mm.artifact.files import CARD, CONFIG, PREPROCESSING, RECIPE, SCORES, WEIGHTS
from lora_mm.artifact.outgoing import copy_to_send
from lora_mm.artifact.packing import pack_adapter
from lora_mm.errors import InputError
from lora_mm.recipe.load import load_recipe


@pytest.fixture
def folder(trained: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(trained["one"], tmp_path / "adapter")


def send(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The sent text files, and the lines about them."""
    lines: list[str] = []
    with copy_to_send(folder, lines.append) as copies:
        return {file.name: file.read_text() for file in copies if file.name != WEIGHTS}, lines


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_packed_adapter_holds_nothing_of_the_machine(
    folder: Path, tmp_path: Path, base_folder: Path, scienceqa_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "marie.curie"
    monkeypatch.setenv("HOME", str(home))
    for name in (RECIPE, PREPROCESSING, CONFIG, CARD):
        replace(folder / name, str(base_folder), str(home / "models" / "la base"))
    for name in (RECIPE, CARD):
        replace(folder / name, str(scienceqa_folder), str(home / "données" / "set"))
    replace(folder / RECIPE, "summary: six steps on a tiny base", f"summary: 'Notes are in {home}/notes.'")
    lines: list[str] = []
    pack_adapter(folder, tmp_path / "a.tar", lines.append)
    packed = (tmp_path / "a.tar").read_bytes()
    for leak in (str(home), "marie.curie", str(tmp_path), "models/la", "données"):
        assert leak.encode() not in packed, leak
        assert json.dumps(leak)[1:-1].encode() not in packed, leak
    assert lines == [
        f"'{home / 'models' / 'la base'}' is a path of this machine; 'la base' is sent in its place.",
        f"'{home / 'données' / 'set'}' is a path of this machine; 'set' is sent in its place.",
    ]


def test_the_sent_files_name_the_same_things(folder: Path, base_folder: Path, scienceqa_folder: Path) -> None:
    before = load_recipe(str(folder / RECIPE))
    texts, _ = send(folder)
    (folder / RECIPE).write_text(texts[RECIPE])
    after = load_recipe(str(folder / RECIPE))
    assert (after.base.model, after.data.path) == (base_folder.name, scienceqa_folder.name)
    assert after.model_copy(update={"base": before.base, "data": before.data}) == before
    assert json.loads(texts[CONFIG])["base_model_name_or_path"] == base_folder.name
    assert json.loads(texts[PREPROCESSING])["base"]["name"] == base_folder.name
    assert json.loads(texts[SCORES]) == json.loads((folder / SCORES).read_text())
    assert f"Adapter for `{base_folder.name}`" in texts[CARD]
    assert f"on `{scienceqa_folder.name}`" in texts[CARD]


def test_hub_ids_and_relative_paths_are_sent_as_they_are(
    folder: Path, base_folder: Path, scienceqa_folder: Path
) -> None:
    for name in (RECIPE, PREPROCESSING, CONFIG, CARD):
        replace(folder / name, str(base_folder), "some/base")
    for name in (RECIPE, CARD):
        replace(folder / name, str(scienceqa_folder), "data/mine")
    texts, lines = send(folder)
    assert not lines
    assert texts == {name: (folder / name).read_text() for name in texts}


@pytest.mark.parametrize(
    "path",
    [f"/data/{getpass.getuser()}/set", "~/set", "../../private/set", "C:\\Users\\me\\set", "file:///home/me/set"],
)
def test_every_form_of_a_path_of_this_machine_is_replaced(folder: Path, scienceqa_folder: Path, path: str) -> None:
    replace(folder / RECIPE, str(scienceqa_folder), json.dumps(path))
    replace(folder / CARD, str(scienceqa_folder), path)
    texts, lines = send(folder)
    assert f"'{path}' is a path of this machine; 'set' is sent in its place." in lines
    for text in texts.values():
        assert path not in text
        assert json.dumps(path)[1:-1] not in text


def test_the_folder_itself_keeps_its_paths(folder: Path) -> None:
    """A run is resumed only with the recipe that it began with."""
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    send(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_a_token_is_not_sent(folder: Path) -> None:
    replace(folder / RECIPE, "summary: six steps on a tiny base", "summary: 'use hf_abcdefghijklmnopqrstuvwxyz012345'")
    with pytest.raises(InputError, match=f"{folder / RECIPE}: holds an access token"):
        send(folder)


def test_links_and_pipes_are_not_sent(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in (CARD, SCORES):
        (folder / name).unlink()
    (folder / CARD).symlink_to("../secret")
    os.mkfifo(folder / SCORES)
    with pytest.raises(InputError) as error:
        send(folder)
    assert error.value.faults == (
        f"{folder / CARD}: is not a regular file but a link to ../secret, whose content would be sent; put a copy in "
        "its place.",
        f"{folder / SCORES}: is not a regular file but a folder, a pipe or a device.",
    )
    (folder / SCORES).unlink()
    (folder / CARD).unlink()
    (folder / CARD).symlink_to("nowhere")
    with pytest.raises(InputError, match="a link to nowhere"):
        send(folder)


def test_an_adapter_in_the_hubs_cache_is_sent_though_its_files_are_links(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "abc", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (RECIPE, PREPROCESSING, CONFIG, CARD, SCORES, WEIGHTS):
        shutil.copyfile(folder / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert send(snapshot) == send(folder)
