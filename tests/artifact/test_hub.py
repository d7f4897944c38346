"""Adapters pushed to and pulled from the Hub by the command line, against a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lora_mm.artifact.files import LIMITS, WEIGHTS
from lora_mm.artifact.hub import ORIGIN, find_adapter, locate_adapter
from lora_mm.artifact.outgoing import copy_to_send
from lora_mm.artifact.packing import pack_adapter
from lora_mm.cli.main import app
from lora_mm.errors import InputError
from lora_mm.evaluation.scienceqa import read_results
from tests.helpers.loopback_hub import TOKEN, Hub, loopback_hub

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Run ``lora-mm`` in a process with this hub and a token; returns the exit code, stdout and stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    # This hub speaks the LFS protocol for large files, not Xet.
    known = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}

    def call(*arguments: object, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "lora_mm", *map(str, arguments)],
            env={**clean, **known, "OMP_NUM_THREADS": "1", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        for output in (done.stdout, done.stderr):
            assert TOKEN not in output
            assert "Traceback" not in output
        return done.returncode, done.stdout, done.stderr

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in LIMITS if (folder / name).is_file()}


def sent(folder: Path) -> dict[str, bytes]:
    with copy_to_send(folder, lambda line: None) as copies:
        return {file.name: file.read_bytes() for file in copies}


def test_a_pushed_and_pulled_adapter_gives_the_same_answers(
    run: Run, hub: Hub, trained: dict[str, Path], tmp_path: Path, base_folder: Path, scienceqa_folder: Path
) -> None:
    folder = trained["one"]
    code, out, err = run("share", "push", folder, "me/one", "--json")
    assert code == 0, err
    repo, sha = hub.repos["me/one"], hub.repos["me/one"].branches["main"]
    assert json.loads(out) == {"repo": "me/one", "commit": sha, "url": f"{hub.url}/me/one", "private": True}
    assert "whoever downloads the adapter must give its Hub id" in err
    assert f"'{base_folder}' is a path of this machine; '{base_folder.name}' is sent in its place." in err
    assert repo.private
    assert len(repo.commits) == 2, "the empty repository, and one commit of all files"
    there = repo.commits[sha]
    assert {name: there[name] for name in there if name in LIMITS} == sent(folder)
    assert set(there) - set(LIMITS) == {".gitattributes"}, "no checkpoint, no predictions"

    code, out, err = run("share", "pull", "me/one")
    assert code == 0, err
    assert out == f"Pulled me/one at commit {sha} into one.\n"
    pulled = tmp_path / "one"
    assert files(pulled) == sent(folder)
    assert json.loads((pulled / ORIGIN).read_text()) == {"repo": "me/one", "commit": sha}

    places = ["--set", f"base.model={base_folder}", "--set", f"data.path={scienceqa_folder}"]
    before, after, by_id = (tmp_path / f"{name}.json" for name in ("before", "after", "by_id"))
    for adapter, answers in ((folder, before), (pulled, after)):
        done = CliRunner().invoke(app, ["evaluate", str(adapter), "--predictions", str(answers), *places])
        assert done.exit_code == 0, done.exception
    assert len(read_results(before).predictions) == 12
    assert read_results(after) == read_results(before)
    # And by its id, from the cache, without the hub.
    code, out, err = run("evaluate", "me/one", "--predictions", by_id, *places, HF_HUB_OFFLINE="1")
    assert code == 0, err
    assert f"Adapter me/one at commit {sha}." in out
    assert read_results(by_id) == read_results(before)


def test_a_revision_pins_a_commit(run: Run, hub: Hub, trained: dict[str, Path], tmp_path: Path) -> None:
    repo = hub.make("some/pinned", files(trained["one"]))
    first = repo.branches["main"]
    second = repo.commit(files(trained["two"]))
    code, out, _ = run("share", "pull", "some/pinned", "--revision", first, "--output", "old")
    assert (code, out) == (0, f"Pulled some/pinned at commit {first} into old.\n")
    assert files(tmp_path / "old") == files(trained["one"])
    code, out, _ = run("share", "pull", "some/pinned@main", "--output", "new", "--json")
    assert json.loads(out) == {"folder": "new", "repo": "some/pinned", "commit": second}
    assert files(tmp_path / "new") == files(trained["two"])
    code, out, err = run("share", "pull", "some/pinned", "--revision", "nope", "--output", "none")
    assert (code, out, err) == (2, "", "some/pinned: has no revision 'nope'.\n")


def test_a_branch_is_created_and_main_is_unchanged(run: Run, hub: Hub, trained: dict[str, Path]) -> None:
    repo = hub.make("me/branches", {**files(trained["one"]), "mine.txt": b"mine"})
    main = repo.branches["main"]
    small = trained["two"]
    for _ in range(2):
        code, _, err = run("share", "push", small, "me/branches", "--branch", "try", "--public")
        assert code == 0, err
    assert repo.branches["main"] == main
    assert repo.commits[repo.branches["try"]] == {**sent(small), "mine.txt": b"mine"}


def test_files_of_an_older_adapter_are_deleted(run: Run, hub: Hub, trained: dict[str, Path], tmp_path: Path) -> None:
    repo = hub.make("me/again", files(trained["one"]), private=True)
    unscored = shutil.copytree(trained["two"], tmp_path / "unscored")
    (unscored / "scores.json").unlink()
    code, _, err = run("share", "push", unscored, "me/again")
    assert code == 0, err
    assert repo.commits[repo.branches["main"]] == sent(unscored)


def test_nothing_is_pushed_to_a_repository_of_another_visibility(run: Run, hub: Hub, trained: dict[str, Path]) -> None:
    hub.make("me/open", {})
    hub.make("me/closed", {}, private=True)
    code, _, err = run("share", "push", trained["one"], "me/open")
    assert code == 2
    assert "exists and is public. Give --public" in err
    code, _, err = run("share", "push", trained["one"], "me/closed", "--public")
    assert code == 2
    assert "exists and is private" in err
    assert [len(hub.repos[name].commits) for name in ("me/open", "me/closed")] == [1, 1]
    code, out, err = run("share", "push", trained["one"], "me/shown", "--public")
    assert code == 0, err
    assert not hub.repos["me/shown"].private
    assert "(public)" in out


def test_a_token_without_permission_and_no_token_are_refused(run: Run, hub: Hub, trained: dict[str, Path]) -> None:
    folder = trained["one"]
    code, _, err = run("share", "push", folder, "others/one")
    assert (code, err.splitlines()[-1]) == (
        2,
        "others/one: this token lacks permission (403); use one with write access.",
    )
    code, _, err = run("share", "push", folder, "me/new", HF_TOKEN="hf_ofNobody")
    assert code == 2
    assert "hf_ofNobody" not in err
    code, _, err = run("share", "push", folder, "me/new", HF_TOKEN="")
    assert (code, err) == (
        2,
        "me/new: pushing needs a token with write access: set HF_TOKEN, or run `hf auth login`.\n",
    )
    hub.make("me/secret", files(folder), private=True)
    code, _, err = run("share", "show", "me/secret", HF_TOKEN="")
    assert code == 2
    assert err.splitlines() == [
        "'me/secret' is not a local folder or file, and not a repository on the Hub that you can access.",
        "Check the name; for a private one set HF_TOKEN, or run `hf auth login`.",
    ]
    assert run("share", "show", "me/secret")[0] == 0


def test_unsafe_and_incomplete_repositories_are_refused_before_any_download(
    run: Run, hub: Hub, trained: dict[str, Path]
) -> None:
    complete = files(trained["one"])
    hub.make("bad/pickled", {**complete, "adapter_model.bin": b"x"})
    hub.make("bad/large", {**complete, "README.md": bytes(1_000_001)})
    hub.make("bad/part", {name: data for name, data in complete.items() if name != WEIGHTS})
    messages = {"pickled": "adapter_model.bin", "large": "README.md has 1,000,001 bytes", "part": f"it lacks {WEIGHTS}"}
    for name, words in messages.items():
        hub.seen.clear()
        code, _, err = run("share", "show", f"bad/{name}")
        assert code == 2
        assert err.startswith(f"bad/{name}: ")
        assert words in err
        assert not [request for request, _ in hub.seen if "resolve" in request]


def test_only_an_adapters_files_are_downloaded(run: Run, hub: Hub, trained: dict[str, Path]) -> None:
    hub.make("some/more", {**files(trained["one"]), "model.py": b"boom", "deep/adapter_config.json": b"{}"})
    hub.seen.clear()
    assert run("share", "show", "some/more")[0] == 0
    fetched = {
        request.rpartition("/")[2] for request, _ in hub.seen if request.startswith("GET") and "resolve" in request
    }
    assert fetched == set(LIMITS)


def test_without_network_two_lines_say_what_to_do(run: Run, trained: dict[str, Path]) -> None:
    code, out, err = run("share", "push", trained["one"], "me/one", HF_HUB_OFFLINE="1")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "me/one: the Hugging Face Hub cannot be reached (HF_HUB_OFFLINE is set).",
        "Without it, share a file: `lora-mm share pack ADAPTER`.",
    ]
    code, out, err = run("share", "pull", "me/never@v1", HF_HUB_OFFLINE="1")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "'me/never@v1' is not a local folder or file, and the Hugging Face Hub cannot be reached "
        "(HF_HUB_OFFLINE is set).",
        "Check the path; or run `lora-mm share pull me/never@v1` on a machine with network, and copy the folder.",
    ]


# --- names of adapters -----------------------------------------------------------------------------------------------


def test_a_folder_and_a_packed_file_are_found(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert find_adapter(trained["one"]) == trained["one"]
    pack_adapter(trained["one"], tmp_path / "mine.tar")
    found = locate_adapter(str(tmp_path / "mine.tar"))
    assert found.name == "mine"
    assert found.origin is None
    assert files(found.folder) == sent(trained["one"])
    assert tmp_path / "hf" in found.folder.parents
    assert locate_adapter(str(tmp_path / "mine.tar")) == found, "unpacked once"
    (tmp_path / "mine.tar").unlink()
    pack_adapter(trained["two"], tmp_path / "mine.tar")
    assert files(find_adapter(tmp_path / "mine.tar")) == sent(trained["two"]), "another content, another folder"


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/a/b", "a/b/c", "~/a", "a b/c"])
def test_a_name_that_is_not_a_hub_id_is_not_searched_on_the_hub(name: str) -> None:
    with pytest.raises(InputError) as error:
        find_adapter(name)
    assert str(error.value) == f"No adapter folder '{name}'."


def test_a_local_adapter_has_no_revision(trained: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"--revision v1: .* is a local path"):
        locate_adapter(str(trained["one"]), "v1")


def test_a_file_that_is_not_a_packed_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="not a packed adapter"):
        find_adapter(tmp_path / "a.bin")
