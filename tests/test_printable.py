"""No text from outside commands a terminal, and no module prints but by these two."""

import ast
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

import lora_mm
from lora_mm.console import PlainConsole, to_text
from lora_mm.errors import LoraMMError
from lora_mm.json_text import to_json
from lora_mm.printable import echo, find_control_character, to_printable

HOSTILE = (
    "[/b]",
    "[red]zz",
    ":smile:",
    "\x1b[31mred",
    "\x9b31m",
    "a\rb",
    "\x07",
    "\x00",
    "\u202eevil",
    "\u2066",
    "\ud800",
)
PACKAGE = Path(lora_mm.__file__).parent


def test_control_characters_are_spelled_out_and_text_stays() -> None:
    assert to_printable("a\x1b[31m\x9b\r\x00\u202e\ud800") == r"a\x1b[31m\x9b\r\x00\u202e\ud800"
    kept = "grüße\t你好 🎈 شكرا [/b] \\x1b\n"
    assert to_printable(kept) == kept


@given(st.text())
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    printable = to_printable(text)
    assert to_printable(printable) == printable
    assert find_control_character(printable) is None
    assert "\r" not in printable


@given(st.text())
def test_json_is_printable_and_reads_back(text: str) -> None:
    line = to_json({text: text})
    assert to_printable(line) == line
    assert json.loads(line) == {text: text}


def draw(console: Console, text: str) -> str:
    """A string, a text, and a table with the text in every place, as the console writes them."""
    table = Table(title=text, caption=text)
    table.add_column(text, footer=text)
    table.add_row(text)
    table.add_row(Text(text))
    for renderable in (text, Text(text), table, to_text(text)):
        console.print(renderable, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_console_prints_markup_and_escapes_as_text(text: str) -> None:
    drawn = draw(PlainConsole(file=io.StringIO(), width=200, force_terminal=True, color_system=None), text)
    assert find_control_character(drawn) is None
    if "\r" not in text and "\x07" not in text:  # rich leaves these out of a Text
        assert drawn.count(to_printable(text)) >= 6


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_text_on_any_console(text: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(to_text(text, "bold"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == f"{to_printable(text)}\n"


def test_styles_still_reach_the_terminal() -> None:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(to_text("\x1b[32m", "red"))
    assert console.file.getvalue() == "\x1b[31m\\x1b[32m\x1b[0m\n"  # type: ignore[attr-defined]


def test_echo_prints_to_either_stream(capsys: pytest.CaptureFixture[str]) -> None:
    echo("a\x1b", end="")
    echo()
    echo("b\x1b", stderr=True)
    assert capsys.readouterr() == ("a\\x1b\n", "b\\x1b\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_ends_no_console_and_is_one_line_of_what_prints() -> None:
    with open("/dev/full", "w") as full:
        console = PlainConsole(file=full)
        console.print("lost")
        console.print("lost too")
    with open("/dev/full", "w") as full, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", full)
        with pytest.raises(LoraMMError, match=r"Standard output: cannot be written: No space left on device\."):
            echo("lost")
        patch.setattr("sys.stderr", full)
        echo("lost", stderr=True)


def test_nothing_else_prints() -> None:
    """``print`` and a plain rich console would print texts as they are."""
    printers = {"print", "rich.print", "typer.echo", "Console", "Text", "Text.from_markup"}
    found = {
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in printers
    }
    assert found == {"printable.py: print", "console.py: Text"}
