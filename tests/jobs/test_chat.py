"""Chats with real adapters: commands, a pipe, and a real terminal with Ctrl-C."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lora_mm.cli.main import app
from lora_mm.data.example import Turn
from lora_mm.errors import InputError
from lora_mm.jobs.chat import Chat
from lora_mm.jobs.inference import AdaptedModel, load_adapted


@pytest.fixture(scope="module")
def picture(scienceqa_folder: Path) -> str:
    return str(scienceqa_folder / "images" / "train" / "4" / "image.png")


@pytest.fixture(scope="module")
def model(trained: dict[str, Path]) -> AdaptedModel:
    return load_adapted([str(trained["one"]), str(trained["two"])])


@pytest.fixture
def chat(model: AdaptedModel) -> Chat:
    model.activate("one")
    chat = Chat(model, 4, write=lambda text: None, notify=lambda line: told.append(line))
    told = chat.__dict__["told"] = []  # what was told, for the test
    return chat


def told(chat: Chat) -> list[str]:
    found: list[str] = chat.__dict__["told"]
    return found


def test_a_turn_is_answered_with_all_that_was_said(chat: Chat, model: AdaptedModel) -> None:
    first = chat.handle("Which?")
    assert first == model.reply([Turn("user", "Which?")], max_new_tokens=4)
    second = chat.handle("And now?")
    said = [Turn("user", "Which?"), Turn("assistant", first or ""), Turn("user", "And now?")]
    assert second == model.reply(said, max_new_tokens=4)
    assert chat.turns == [*said, Turn("assistant", second or "")]


def test_pictures_go_with_the_next_turn(chat: Chat, picture: str) -> None:
    chat.handle(f"/image {picture}")
    chat.handle(f"/image {picture}")
    assert told(chat)[-1] == "The next turn has 2 pictures."
    chat.handle("Which?")
    assert [len(turn.images) for turn in chat.turns] == [2, 0]
    chat.handle("And now?")
    assert [len(turn.images) for turn in chat.turns] == [2, 0, 0, 0]


def test_who_answers_is_switched_by_name(chat: Chat, model: AdaptedModel) -> None:
    chat.handle("/adapter two")
    assert model.active == "two"
    assert told(chat)[-1] == "Adapter two answers. Adapters: one, two."
    chat.handle("/base")
    assert model.active is None
    chat.handle("/adapter")
    assert told(chat)[-1] == "The frozen base answers. Adapters: one, two."
    chat.handle("/reset")
    assert chat.handle("Which?") == model.reply([Turn("user", "Which?")], max_new_tokens=4)


def test_help_names_every_command_and_exit_leaves(chat: Chat) -> None:
    chat.handle("/help")
    names = [line.split()[0] for line in told(chat)]
    assert names == ["/adapter", "/base", "/image", "/reset", "/help", "/exit"]
    assert not chat.ended
    chat.handle("/exit")
    assert chat.ended


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/imag x", r"Unknown command '/imag'; /help lists all\. Did you mean '/image'\?"),
        ("/image", "/image needs a file or a URL"),
        ("/image /nowhere.png", "/nowhere.png: No such file"),
        ("/adapter three", "Unknown adapter 'three'. Known: one, two."),
        ("What is <image>?", "the text contains '<image>'"),
        ("What is <pad>?", "the text contains '<pad>'"),
        ("a\ufffcb", r"The line: contains U\+FFFC"),
        ("a\x1b[31m", r"The line: contains the control character U\+001B at position 2"),
        ("a\udcff", r"The line: contains the control character U\+DCFF"),
        ("/image a\0b", r"The line: contains the control character U\+0000"),
    ],
)
def test_what_cannot_be_done_leaves_the_conversation_as_it_was(
    chat: Chat, picture: str, line: str, message: str
) -> None:
    chat.handle("Which?")
    chat.handle(f"/image {picture}")
    before = list(chat.turns), list(chat.pictures), chat.model.active
    with pytest.raises(InputError, match=message):
        chat.handle(line)
    assert (chat.turns, chat.pictures, chat.model.active) == before


def test_an_answer_stopped_before_its_first_word_forgets_the_turn(chat: Chat, picture: str) -> None:
    chat.handle(f"/image {picture}")
    answer = chat.handle("Which?", stop=lambda: True)
    assert bool(chat.turns) == bool(answer), "what was written is kept"
    assert len(chat.pictures) == (0 if answer else 1)


# --- through a pipe --------------------------------------------------------------------------------------------------


def piped(lines: list[str], *adapters: Path) -> Result:
    arguments = ["chat", *map(str, adapters), "--max-new-tokens", "4"]
    return CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines))


def test_through_a_pipe_a_line_is_a_turn_and_an_answer_a_line(
    trained: dict[str, Path], model: AdaptedModel, picture: str
) -> None:
    lines = [
        "Which?",
        "",
        "/reset",
        "/adapter two",
        f"/image {picture}",
        "Which?",
        "/base",
        "/reset",
        "Which?",
        "/exit",
        "x",
    ]
    done = piped(lines, trained["one"], trained["two"])
    assert done.exit_code == 0, done.output
    expected = []
    for name, shown in (("one", False), ("two", True), (None, False)):
        model.activate(name)
        turn = Turn("user", "Which?", (Path(picture),) if shown else ())
        answer = model.reply([turn], max_new_tokens=4)
        expected.append(answer.replace("\\", "\\\\").replace("\n", "\\n"))
    assert done.stdout.splitlines() == expected
    assert "Base " in done.stderr


def test_through_a_pipe_the_first_fault_ends_it(trained: dict[str, Path]) -> None:
    done = piped(["Which?", "/nope", "Which?"], trained["one"])
    assert isinstance(done.exception, InputError)
    assert len(done.stdout.splitlines()) == 1


def test_a_pipe_that_is_not_utf_8_ends_it(trained: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["chat", str(trained["one"])], input="Gr\xfc\xdfe\n".encode("latin-1"))
    assert isinstance(done.exception, InputError)
    assert "The line: contains the control character U+DCFC at position 3" in str(done.exception)


# --- in a terminal ---------------------------------------------------------------------------------------------------


MANY = 200
"""Tokens, far more than are written before somebody can press a key."""


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        import pty

        master, slave = pty.openpty()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lora_mm", *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.master, self.seen = master, ""

    def until(self, pattern: str) -> str:
        """Read until ``pattern`` has come; gives what came since the last time, up to its end."""
        deadline = time.monotonic() + 90
        while (match := re.search(pattern, self.seen, re.DOTALL)) is None:
            assert time.monotonic() < deadline, f"waited for {pattern!r} in {self.seen!r}"
            if select.select([self.master], [], [], 0.5)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # it has gone
                    data = b""
                assert data, f"it ended before {pattern!r}: {self.seen!r}"
                self.seen += data.decode(errors="replace")
        found, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return found

    def type(self, line: str) -> None:
        os.write(self.master, f"{line}\n".encode())

    def interrupt(self) -> None:
        """Ctrl-C at once."""
        self.process.send_signal(signal.SIGINT)

    def press_ctrl_c(self) -> None:
        """Ctrl-C at the prompt, once the process waits there: just after the prompt readline misses a signal."""
        self._wait_until_idle()
        self.interrupt()

    def _wait_until_idle(self) -> None:
        """Wait until the process has slept for half a second without computing, however busy the machine is."""
        deadline, used = time.monotonic() + 90, -1
        while time.monotonic() < deadline:
            stat = Path(f"/proc/{self.process.pid}/stat")
            if not stat.is_file():  # no such files on this system
                time.sleep(0.5)
                return
            state, *fields = stat.read_text().rpartition(")")[2].split()
            before, used = used, int(fields[10]) + int(fields[11])
            if state == "S" and used == before:
                return
            time.sleep(0.5)

    def press_ctrl_d(self) -> None:
        os.write(self.master, b"\x04")


@pytest.fixture(scope="module")
def endless(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base, as one that never ends an answer by itself."""
    folder = shutil.copytree(base_folder, tmp_path_factory.mktemp("endless") / "base")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": None}))
    return f"base.model={folder}"


@pytest.fixture
def terminal(trained: dict[str, Path], endless: str) -> Iterator[Terminal]:
    both = str(trained["one"]), str(trained["two"])
    terminal = Terminal("chat", *both, "--set", endless, "--max-new-tokens", str(MANY))
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.master)


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind there")
def test_in_a_terminal_ctrl_c_stops_the_answer_and_twice_leaves(
    terminal: Terminal, trained: dict[str, Path], endless: str
) -> None:
    model = load_adapted([str(trained["two"])], [endless])
    whole = model.reply([Turn("user", "Which?")], max_new_tokens=MANY)
    assert len(whole) > 60
    terminal.until(r"Adapter one answers\. Adapters: one, two\. /help lists the commands\.\r\n> ")
    terminal.type("/nope")
    terminal.until(r"Unknown command '/nope'.*> ")
    terminal.type("/adapter two")
    terminal.until(r"Adapter two answers\. .*> ")
    terminal.type("Which?")
    terminal.until(r"Which\?\r\n..")
    terminal.interrupt()
    rest = terminal.until(r"\n> ")  # the program goes on
    assert terminal.process.poll() is None
    assert len(rest) < len(whole) // 2
    terminal.type("/base")
    terminal.until(r"The frozen base answers\.\r\n> ")
    terminal.press_ctrl_c()
    terminal.until(r"Press Ctrl-C again, Ctrl-D, or type /exit to leave\.\r\n> ")
    terminal.press_ctrl_c()
    assert terminal.process.wait(timeout=30) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind there")
def test_in_a_terminal_what_is_no_text_is_told_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.until(r"\n> ")
    for typed in (b"a\xffb\n", "a\ufffcb\n".encode()):
        os.write(terminal.master, typed)
        terminal.until(r"The line: contains .*\n> ")
    terminal.press_ctrl_d()
    assert terminal.process.wait(timeout=30) == 0
