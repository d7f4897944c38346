"""Chats in a terminal or through a pipe. Knows the commands; loads no model.

In a terminal, Ctrl-C stops the current answer; Ctrl-C twice in a row, or Ctrl-D, ends the program. Through a pipe, each
line is a turn and each answer is one line, with line breaks written as ``\\n``; the first error ends the program.
"""

import contextlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from lora_mm.data.cells import check_characters
from lora_mm.data.example import ImageSource, Turn
from lora_mm.data.fetch import fetch_picture
from lora_mm.errors import InputError, suggest_name
from lora_mm.interrupt import Interrupt
from lora_mm.jobs.inference import AdaptedModel
from lora_mm.printable import echo


@dataclass
class Chat:
    """A conversation with the active adapter.

    Attributes:
        model: the base with its adapters; the active adapter answers.
        max_new_tokens: maximum number of tokens of an answer.
        write: called with each piece of an answer.
        notify: called with each line that is not part of an answer.
        turns: the turns so far; the model reads all of them before each answer.
        pictures: pictures of the next turn.
        ended: whether the user has left.
    """

    model: AdaptedModel
    max_new_tokens: int
    write: Callable[[str], None]
    notify: Callable[[str], None]
    turns: list[Turn] = field(default_factory=list)
    pictures: list[ImageSource] = field(default_factory=list)
    ended: bool = False

    def handle(self, line: str, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Run a command, or answer a turn.

        Args:
            line: the user's input; a command begins with ``/``.
            stop: called after each token; the answer ends when it returns True.

        Returns:
            The answer; None for a command.

        Raises:
            InputError: the line cannot be used; the conversation does not change.
        """
        check_characters("The line", line)
        if line.startswith("/"):
            self._run_command(line)
            return None
        question = Turn("user", line, tuple(self.pictures))
        answer = self.model.reply(
            [*self.turns, question], max_new_tokens=self.max_new_tokens, write=self.write, stop=stop
        )
        if answer or not stop():
            self.turns += [question, Turn("assistant", answer)]
            self.pictures = []
        return answer

    def format_status(self) -> str:
        """Write which model answers, and the names of all adapters, in one line."""
        return f"{self._format_active_model()} Adapters: {', '.join(self.model.names) or 'none'}."

    def _format_active_model(self) -> str:
        return "The frozen base answers." if self.model.active is None else f"Adapter {self.model.active} answers."

    def _run_command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name not in _COMMANDS:
            raise InputError(f"Unknown command '{name}'; /help lists all.{suggest_name(name, list(_COMMANDS))}")
        _COMMANDS[name].run(self, argument.strip())

    def _switch_adapter(self, name: str) -> None:
        if name:
            self.model.activate(name)
        self.notify(self.format_status())

    def _switch_to_base(self, _: str) -> None:
        self.model.activate(None)
        self.notify(self._format_active_model())

    def _add_picture(self, address: str) -> None:
        if not address:
            raise InputError("/image needs a file or a URL: /image PATH-OR-URL")
        self.pictures.append(fetch_picture(address))
        count = len(self.pictures)
        self.notify(f"The next turn has {count} picture{'' if count == 1 else 's'}.")

    def _reset(self, _: str) -> None:
        self.turns, self.pictures = [], []
        self.notify("New conversation.")

    def _show_help(self, _: str) -> None:
        for name, command in _COMMANDS.items():
            self.notify(f"{name + command.argument:20} {command.help}")

    def _leave(self, _: str) -> None:
        self.ended = True


@dataclass(frozen=True)
class _Command:
    argument: str
    help: str
    run: Callable[[Chat, str], None]


_COMMANDS = {
    "/adapter": _Command(" NAME", "let another adapter answer; without a name, list them", Chat._switch_adapter),
    "/base": _Command("", "let the frozen base answer", Chat._switch_to_base),
    "/image": _Command(" PATH-OR-URL", "show a picture with the next turn; may be repeated", Chat._add_picture),
    "/reset": _Command("", "start a new conversation", Chat._reset),
    "/help": _Command("", "show this list", Chat._show_help),
    "/exit": _Command("", "leave; Ctrl-D, or Ctrl-C twice, leaves as well", Chat._leave),
}


def chat_in_terminal(chat: Chat) -> None:
    """Run the conversation in this terminal until the user leaves."""
    with contextlib.suppress(ImportError):  # line editing and history, if the platform has readline
        import readline  # noqa: F401
    interrupt, pressed_before = Interrupt([signal.SIGINT]), False
    while not chat.ended:
        try:
            line = input("> ").strip()
            pressed_before = False
            with interrupt.listening():
                if line and chat.handle(line, lambda: interrupt.requested) is not None:
                    chat.write("\n")
            pressed_before = interrupt.requested
        except EOFError:
            break
        except KeyboardInterrupt:
            if pressed_before or interrupt.requested:
                break
            pressed_before = True
            chat.notify("\nPress Ctrl-C again, Ctrl-D, or type /exit to leave.")
        except InputError as error:
            for fault in error.faults:
                chat.notify(fault)
    chat.write("\n")


def chat_through_pipe(chat: Chat) -> None:
    """Answer each line of standard input with one line; raise InputError at the first line that cannot be used."""
    chat.write = lambda piece: None  # each answer is printed as a whole
    for line in sys.stdin:
        answer = chat.handle(line.strip()) if line.strip() else None
        if answer is not None:
            echo(answer.replace("\\", "\\\\").replace("\n", "\\n"))
        if chat.ended:
            break
