"""A conversation in a terminal, or through a pipe: lines in, answers out. Knows commands; loads no model.

In a terminal, Ctrl-C ends the answer that is being written; twice in a row, or Ctrl-D, ends the program. Through a pipe
every line is a turn and every answer is one line, its line breaks written as ``\\n``; the first fault ends it.
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
    """A conversation and what was said in it.

    Attributes:
        speaker: who answers.
        max_new_tokens: of an answer.
        write: gets an answer piece by piece.
        tell: gets what is no answer, a line at a time.
        turns: what was said so far, and is read again with every turn.
        pictures: those to be shown with the next turn.
    """

    speaker: AdaptedModel
    max_new_tokens: int
    write: Callable[[str], None]
    tell: Callable[[str], None]
    turns: list[Turn] = field(default_factory=list)
    pictures: list[ImageSource] = field(default_factory=list)
    over: bool = False

    def take(self, line: str, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Do what ``line`` says: a command, or a turn to answer.

        Returns:
            The answer; None for a command.

        Raises:
            InputError: for what cannot be done; the conversation is then as it was.
        """
        if line.startswith("/"):
            self._command(line)
            return None
        asked = Turn("user", line, tuple(self.pictures))
        answer = self.speaker.reply(
            [*self.turns, asked], max_new_tokens=self.max_new_tokens, write=self.write, stop=stop
        )
        if answer or not stop():
            self.turns += [asked, Turn("assistant", answer)]
            self.pictures = []
        return answer

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in _COMMANDS:
            raise InputError(f"No command '{name}'; /help lists them.{suggest_name(name, list(_COMMANDS))}")
        _COMMANDS[name][2](self, rest.strip())

    def _adapter(self, name: str) -> None:
        if name:
            self.speaker.use(name)
        self.tell(f"{self.who()} answers; adapters: {', '.join(self.speaker.names) or 'none'}.")

    def _base(self, _: str) -> None:
        self.speaker.use(None)
        self.tell(f"{self.who()} answers.")

    def _image(self, place: str) -> None:
        if not place:
            raise InputError("/image PATH-OR-URL")
        self.pictures.append(fetch_picture(place))
        count = len(self.pictures)
        self.tell(f"{count} picture{'' if count == 1 else 's'} will be shown with the next turn.")

    def _reset(self, _: str) -> None:
        self.turns, self.pictures = [], []
        self.tell("The conversation begins anew.")

    def _help(self, _: str) -> None:
        for name, (argument, what, _act) in _COMMANDS.items():
            self.tell(f"{name + argument:20} {what}")

    def _exit(self, _: str) -> None:
        self.over = True

    def who(self) -> str:
        """Who answers, in words."""
        return "the frozen base" if self.speaker.active is None else self.speaker.active


_COMMANDS: dict[str, tuple[str, str, Callable[[Chat, str], None]]] = {
    "/adapter": (" NAME", "have another adapter answer; without a name, tell which there are", Chat._adapter),
    "/base": ("", "have the frozen base answer", Chat._base),
    "/image": (" PATH-OR-URL", "show a picture with the next turn; may be repeated", Chat._image),
    "/reset": ("", "forget what was said and shown", Chat._reset),
    "/help": ("", "this list", Chat._help),
    "/exit": ("", "leave; so does Ctrl-D, and Ctrl-C twice", Chat._exit),
}
"""Command → its argument, what it does, how."""


def talk(chat: Chat) -> None:
    """Hold the conversation in this terminal until its user leaves."""
    with contextlib.suppress(ImportError):  # gives lines to edit and to go back to, where there is one
        import readline  # noqa: F401
    interrupt, pressed = Interrupt(), False
    while not chat.over:
        try:
            line = input("> ").strip()
            pressed = False
            with interrupt.listening():
                if line and chat.take(line, lambda: interrupt.asked) is not None:
                    chat.write("\n")
            pressed = interrupt.asked
        except EOFError:
            break
        except KeyboardInterrupt:
            if pressed or interrupt.asked:
                break
            pressed = True
            chat.tell("\nCtrl-C again, Ctrl-D or /exit leaves.")
        except InputError as error:
            for fault in error.faults:
                chat.tell(fault)
    chat.write("\n")


def pipe(chat: Chat) -> None:
    """Answer the lines of standard input, a line each, until they end; raises InputError at the first fault."""
    chat.write = lambda piece: None  # a line is written when it is whole
    for line in sys.stdin:
        answer = chat.take(line.strip()) if line.strip() else None
        if answer is not None:
            print(answer.replace("\\", "\\\\").replace("\n", "\\n"), flush=True)
        if chat.over:
            break
