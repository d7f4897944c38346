"""The README and the documentation: every name in them exists, and every link leads somewhere."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_mm.errors import InputError
from lora_mm.models.families import FAMILIES
from lora_mm.recipe.load import recipe_file
from tools.docs_site import pages

ROOT = pages.ROOT
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
}
every_page = pytest.mark.parametrize("page", list(PAGES))
COMMANDS = pages.list_commands()


def list_code(page: str) -> list[str]:
    """Inline code, and the lines of code blocks."""
    text = PAGES[page]
    blocks = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^ *```[^\n]*\n.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)


def list_calls(page: str) -> Iterator[tuple[str, list[str]]]:
    """Every call of ours in a page: the command's full name, and the words after it."""
    for line in list_code(page):
        for call in re.findall(r"(?:^|\s)(?:lora-mm|-m lora_mm) (\S[^|>]*)", line.partition("# ")[0]):
            words = call.split()
            both = " ".join(words[:2])
            groups = {name.split()[0] for name in COMMANDS if " " in name}
            if words[0] in groups and len(words) > 1:
                yield both, words[2:]
            else:
                yield words[0], words[1:]


def is_placeholder(word: str) -> bool:
    return word.isupper() or not re.fullmatch(r"[\w-]+", word)


@every_page
def test_commands_and_their_options_exist(page: str) -> None:
    groups = {name.split()[0] for name in COMMANDS if " " in name} | {"VERB"}
    for name, words in list_calls(page):
        if name in groups or name.startswith("-"):  # `lora-mm share`, `lora-mm VERB --help`, `lora-mm --help`
            continue
        assert name in COMMANDS, f"{page}: lora-mm {name}"
        options = [*pages.list_options(COMMANDS[name]), "--help"]
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"{page}: lora-mm {name} {word}"


@every_page
def test_options_that_stand_alone_exist(page: str) -> None:
    known = {option for command in COMMANDS.values() for option in pages.list_options(command)} | {
        "--help",
        "--version",
    }
    for code in list_code(page):
        word = code.split()[0] if code.split() else ""
        if word.startswith("--") and not word.startswith("---"):
            assert word in known, f"{page}: {code}"


@every_page
def test_recipes_exist(page: str) -> None:
    for code in list_code(page):
        for name in re.findall(r"(?:--recipe|recipes show|recipes copy|recipes check|data check)[ =](\S+)", code):
            if not is_placeholder(name):
                try:
                    recipe_file(name)
                except InputError as error:
                    pytest.fail(f"{page}: {code}: {error}")


@every_page
def test_recipe_keys_exist(page: str) -> None:
    keys = pages.list_recipe_keys()
    sections = {key.split(".")[0] for key in keys if "." in key}
    for code in list_code(page):
        found = re.findall(r"--set ['\"]?([\w.]+)=", code)
        if not code.startswith("--") and "lora_mm" not in code:
            found += re.findall(rf"(?<![\w./-])((?:{'|'.join(sections)})\.[a-z_][\w.]*)", code)
        for key in found:
            plain = re.sub(r"\.(?:\d+|N)(?=\.|$)", "", key)
            ending = plain.rpartition(".")[2]
            if ending in ("jsonl", "json", "yaml", "md", "py", "html"):
                continue
            assert plain in keys, f"{page}: {code}: {key}"


@every_page
def test_dotted_names_exist(page: str) -> None:
    for code in list_code(page):
        for name in re.findall(r"(?<![\w/.])((?:lora_mm|benchmarks|tests|tools)(?:\.\w+)+)(?![\w/])", code):
            assert resolves(name), f"{page}: {name}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[count:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


@every_page
def test_files_of_the_repository_exist(page: str) -> None:
    top = {path.name for path in ROOT.iterdir()} - {"runs", "site"}
    for code in list_code(page):
        for path in re.findall(r"(?<![\w/.-])(\.?[\w-]+/[\w./*-]*)", code):
            if path.split("/")[0] in top and "*" not in path:
                assert (ROOT / path.rstrip("/.")).exists(), f"{page}: {path}"


@every_page
def test_targets_of_make_exist(page: str) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for code in list_code(page):
        for target in re.findall(r"^make (\w+)", code):
            assert target in targets, f"{page}: make {target}"


@every_page
def test_links_lead_somewhere(page: str) -> None:
    """Those of docs/ are checked by the site's build too, generated pages and all."""
    file = ROOT / page
    for link in re.findall(r"\]\((?!https?://|#)([^)\s#]+)", PAGES[page]):
        target = file.parent / link
        generated = target.is_relative_to(ROOT / "docs") and is_generated(target.resolve())
        assert target.exists() or generated, f"{page}: {link}"


def is_generated(target: Path) -> bool:
    """Whether the site's build makes a page, from ``benchmarks/results`` or from a file at the root."""
    return target.stem in pages.list_results() or target.name in ("contributing.md", "changelog.md")


@every_page
def test_python_examples_are_python(page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for block in blocks:
        ast.parse(block)


def test_the_readme_is_short_and_counts_right() -> None:
    assert len(PAGES["README.md"].splitlines()) < 150
    assert f"**{len(FAMILIES)} model families**" in PAGES["README.md"]
