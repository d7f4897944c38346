"""``lora-mm generate``, and ``--accept`` where adapters are used: answers, JSON, and what is told of mismatches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lora_mm.artifact.packing import pack_adapter
from lora_mm.cli.main import app
from lora_mm.data.example import Turn
from lora_mm.errors import InputError
from lora_mm.jobs.inference import load_adapted
from tests.helpers.tiny import make_base


@pytest.fixture(scope="module")
def picture(scienceqa_folder: Path) -> str:
    return str(scienceqa_folder / "images" / "train" / "4" / "image.png")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def asked(*arguments: object) -> dict[str, str]:
    done = run("generate", *arguments, "--prompt", "Which?", "--max-new-tokens", 5, "--json")
    assert done.exit_code == 0, done.exception
    (line,) = done.stdout.splitlines()
    found: dict[str, str] = json.loads(line)["answers"]
    return found


def test_one_adapter_writes_its_answer(trained: dict[str, Path], picture: str) -> None:
    model = load_adapted([str(trained["one"])])
    for images in ([], [picture], [picture, picture]):
        turn = Turn("user", "Which?", tuple(Path(image) for image in images))
        expected = model.reply([turn], max_new_tokens=5)
        flags = [part for image in images for part in ("--image", image)]
        assert asked(trained["one"], *flags) == {"one": expected}
        done = run("generate", trained["one"], *flags, "--prompt", "Which?", "--max-new-tokens", 5)
        assert done.stdout.strip() == expected


def test_several_answer_each_and_one_by_name(
    trained: dict[str, Path], base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pack_adapter(trained["two"], tmp_path / "packed.tar")
    both = trained["one"], tmp_path / "packed.tar"
    answers = asked(*both)
    assert list(answers) == ["one", "packed"]
    assert answers["packed"] == asked(trained["two"])["two"]
    base = f"base.model={base_folder}"  # a packed adapter names no path of the machine that packed it
    assert asked(*both, "--adapter-name", "packed", "--set", base) == {"packed": answers["packed"]}
    done = run("generate", *both, "--prompt", "Which?", "--max-new-tokens", 5)
    assert done.stdout.startswith("one: ")
    assert "\npacked: " in done.stdout


def test_the_frozen_base_answers_without_adapter(trained: dict[str, Path]) -> None:
    answers = asked(trained["one"], "--base-only")
    assert list(answers) == ["frozen base"]
    assert answers["frozen base"] != asked(trained["one"])["one"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "/nowhere.png"], "/nowhere.png: No such file"),
        (["--adapter-name", "two"], "Unknown adapter 'two'. Known: one."),
        (["--set", "base.model=/nowhere"], "base.model: no folder '/nowhere'."),
    ],
)
def test_what_cannot_be_used_is_told(trained: dict[str, Path], arguments: list[str], message: str) -> None:
    done = run("generate", trained["one"], "--prompt", "Which?", *arguments)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_another_base_is_taken_only_knowingly(trained: dict[str, Path], tmp_path: Path) -> None:
    """As a user types it: refused with the way out, which then works, with one line of warning."""
    other = make_base(tmp_path / "other", seed=1)
    setting = ["--set", f"base.model={other}"]
    generate = ["generate", trained["one"], *setting, "--prompt", "Which?", "--max-new-tokens", "2"]
    evaluate = ["evaluate", str(trained["one"]), *setting, "--limit", "2"]
    for command in (generate, evaluate):
        refused = run(*command)
        assert isinstance(refused.exception, InputError)
        assert "--accept base" in str(refused.exception)
    with pytest.warns(UserWarning, match=r"Accepted\."):
        assert run(*generate, "--accept", "base").exit_code == 0
    command = [sys.executable, "-m", "lora_mm", *evaluate]
    done = subprocess.run(
        [*command, "--accept", "base"], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "Accepted." in line]
    assert len(warned) == 1
    assert warned[0].startswith(f"Warning: {trained['one']}: trained on base ")


def test_otherwise_prepared_inputs_are_taken_only_knowingly(
    trained: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    moved = make_base(tmp_path / "moved")
    template = moved / "chat_template.jinja"
    template.write_text(
        template.read_text()
        .replace("role'].upper()", "role'].upper() + ' says'")
        .replace("'ASSISTANT:'", "'ASSISTANT says:'")
    )
    command = ["evaluate", trained["one"], "--limit", 2, "--set", f"base.model={moved}"]
    done = run(*command)
    assert isinstance(done.exception, InputError)
    assert "chat_template: trained with" in str(done.exception)
    assert "--accept inputs" in str(done.exception)
    assert isinstance(run(*command, "--accept", "base").exception, InputError)
    with pytest.warns(UserWarning, match="chat_template"):
        assert run(*command, "--accept", "inputs").exit_code == 0
    assert run(*command, "--accept", "everything").exit_code == 2


def test_evaluate_says_what_the_base_weighs_by_part(trained: dict[str, Path]) -> None:
    done = run("evaluate", trained["one"], "--limit", 2)
    assert done.exit_code == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("Base "))
    for part in ("vision", "connector", "language", "head"):
        assert f"{part} " in line
