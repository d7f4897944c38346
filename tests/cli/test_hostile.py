"""What a user types and what data holds is printed as text; output that nobody reads ends no run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.helpers.own import write_rows
from tests.helpers.page_reader import PageReader
from tests.helpers.tiny import make_recipe

MARKUP = '[/b][red]zz[/]:smile:<script>alert(1)</script>"onload="x'
STEERING = "\u202eevil\u2028"
"""Marks that are sound text in a row, but that no terminal should see."""


@pytest.fixture(scope="module")
def hostile_recipe(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows with markup in ids, questions, choices and names."""
    folder = tmp_path_factory.mktemp("hostile") / MARKUP
    folder.mkdir(parents=True)  # as a path "…/[/b]…"
    rows = [
        {"id": f"{MARKUP}{STEERING}{n}", "question": f"{MARKUP}{n}?", "choices": [f"{MARKUP}b", "a"], "answer": "a",
         MARKUP: MARKUP}
        for n in range(20)
    ]  # fmt: skip
    file = write_rows(folder, rows, "[red]rows.jsonl")
    data = {"path": str(file), "eval_share": 0.2, "format": "QCM-A", "max_length": 512}
    training = {"max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 2}
    return make_recipe(folder / "recipe.yaml", base_folder, folder, summary=MARKUP, data=data,
                       training=training)  # fmt: skip


def test_markup_is_printed_as_it_is_by_every_verb(cli: Cli, hostile_recipe: Path) -> None:
    run, text = hostile_recipe.parent / f"run{MARKUP}", []
    for arguments in (
        ("data", "check", hostile_recipe),
        ("data", "preview", hostile_recipe, "--output", hostile_recipe.parent / "page.html"),
        ("plan", "--recipe", hostile_recipe),
        ("recipes", "check", hostile_recipe),
        ("finetune", "--recipe", hostile_recipe, "--output", run),
        ("evaluate", run, "--compare", "base", "--report", hostile_recipe.parent / "report.html"),
        ("evaluate", run, "--json"),
        ("share", "show", run),
        ("generate", run, "--prompt", MARKUP, "--max-new-tokens", "2"),
    ):
        code, out, err = cli(*arguments)
        assert code == 0, (arguments, err)
        assert not set(STEERING[:1] + "\u2028") & set(out + err), arguments
        text.append(out)
    assert f"run{MARKUP}" in text[4]
    for name in ("page", "report"):
        page = PageReader((hostile_recipe.parent / f"{name}.html").read_text(encoding="utf-8"))
        page.check_harmless()
        assert any("<script>" in shown for shown in page.text)
    assert rf"{MARKUP}\u202eevil\u2028" in text[0]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("a\x1b[31m", "Argument 4: contains the control character U+001B at position 2"),
        ("a\x9b31m", "Argument 4: contains the control character U+009B"),
        ("a\ufffcb", "--prompt: contains U+FFFC, which stands for a lost object; remove it"),
        ("a\udcff", "--prompt: contains the control character U+DCFF"),
        ("What is <image>?", "the text contains '<image>', a special token"),
    ],
)
def test_a_prompt_that_is_no_text_ends_with_2(cli: Cli, adapter: Path, typed: str, told: str) -> None:
    code, out, err = cli("generate", adapter, "--prompt", typed)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["\x1b[31m"], ["finetune", "--\x1b]0;a\x07"], ["share", "show", "\x9bm"]])
def test_no_wrong_call_is_echoed_to_the_terminal(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert not set("\x1b\x07\x9b") & set(err)


def test_a_name_that_is_not_utf_8_is_spelled_out(cli: Cli) -> None:
    code, _, err = cli("share", "show", "nowhere-\udcff\u202e")
    assert (code, err) == (2, "adapter: 'nowhere-\\udcff\\u202e' is not a valid path in UTF-8\n")


# --- nobody reads ----------------------------------------------------------------------------------------------------


def leave(*arguments: object, lines: int = 0) -> tuple[int, str]:
    """Run ``lora-mm`` in a process of its own and stop reading its output after some lines; gives exit code and
    standard error."""
    with subprocess.Popen(
        [sys.executable, "-m", "lora_mm", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read().decode()
    return process.returncode, told


def test_what_nobody_reads_ends_quietly() -> None:
    for arguments in (("recipes", "schema"), ("models", "list"), ("--version",)):
        assert leave(*arguments) == (141, ""), arguments


def test_a_run_goes_on_when_nobody_reads(recipe_file: Path, tmp_path: Path) -> None:
    code, told = leave("finetune", "--recipe", recipe_file, "--output", tmp_path / "run", lines=1)
    assert (code, told) == (0, "")
    assert (tmp_path / "run" / "report.html").is_file()
