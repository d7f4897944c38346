"""A conversation in a terminal or through a pipe. Knows the commands; loads no model.

In a terminal, Ctrl-C ends the answer that is being written; twice in a row, or Ctrl-D, it ends the program. Through a
pipe each line is a turn and each answer is one line, with line breaks written as ``\\n``; the first error ends it.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from lora_mm.data.example import ImageSource, Turn
from lora_mm.data.fetch import fetch_picture
from lora_mm.errors import InputError, suggest_name
from lora_mm.interrupt import Interrupt
from lora_mm.jobs.inference import AdaptedModel


@dataclass
class Chat:
    """A conversation: who answers, and what was said so far.

    Attributes:
        model: the base with its adapters; the active one answers.
        max_new_tokens: the maximum number of tokens of an answer.
        write: called with each piece of an answer.
        notify: called with each line that is not part of an answer.
        turns: what was said so far; the model reads all of it with every turn.
        pictures: shown with the next turn.
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
            line: what the user typed; a command begins with ``/``.
            stop: called after each token; True ends the answer there.

        Returns:
            The answer; None for a command.

        Raises:
            InputError: the line cannot be used; the conversation is then unchanged.
        """
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
        """Who answers, and which adapters there are, in one line."""
        return f"{self._format_speaker()} Adapters: {', '.join(self.model.names) or 'none'}."

    def _format_speaker(self) -> str:
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
        self.notify(self._format_speaker())

    def _add_picture(self, place: str) -> None:
        if not place:
            raise InputError("/image needs a file or a URL: /image PATH-OR-URL")
        self.pictures.append(fetch_picture(place))
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
    "/reset": _Command("", "forget all turns and pictures", Chat._reset),
    "/help": _Command("", "show this list", Chat._show_help),
    "/exit": _Command("", "leave; Ctrl-D, or Ctrl-C twice, leaves as well", Chat._leave),
}


def chat_in_terminal(chat: Chat) -> None:
    """Hold the conversation in this terminal until the user leaves."""
    with contextlib.suppress(ImportError):  # line editing and history, where the platform has readline
        import readline  # noqa: F401
    interrupt, pressed_before = Interrupt(), False
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
    """Answer each line of standard input with one line; raises InputError at the first one that cannot be used."""
    chat.write = lambda piece: None  # a line is printed when it is complete
    for line in sys.stdin:
        answer = chat.handle(line.strip()) if line.strip() else None
        if answer is not None:
            print(answer.replace("\\", "\\\\").replace("\n", "\\n"), flush=True)
        if chat.ended:
            break
