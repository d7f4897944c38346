"""``lora-mm chat``: chats with adapters, in a terminal or through a pipe. Holds no logic."""

import io
import sys

from lora_mm.cli.options import AcceptOption, AdaptersArgument, MaxNewTokensOption, SetOption
from lora_mm.printable import echo


def chat(
    adapters: AdaptersArgument,
    max_new_tokens: MaxNewTokensOption = 256,
    accept: AcceptOption = [],
    overrides: SetOption = [],
) -> None:
    """Chat with adapters on one loaded base; switch between them by name. /help lists the commands.

    Through a pipe, each input line is a turn and each answer is one line, with line breaks written as \\n.
    """
    from lora_mm.jobs.chat import Chat, chat_in_terminal, chat_through_pipe
    from lora_mm.jobs.inference import load_adapted
    from lora_mm.models.memory import format_memory

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is not UTF-8 is refused line by line
    model = load_adapted(adapters, overrides, accept=[item.value for item in accept])
    session = Chat(
        model,
        max_new_tokens,
        write=lambda text: echo(text, end=""),
        notify=lambda line: echo(line, stderr=True),
    )
    session.notify(f"Base {model.base.name}: {format_memory(model.model)}.")
    if not sys.stdin.isatty():
        chat_through_pipe(session)
        return
    session.notify(f"{session.format_status()} /help lists the commands.")
    chat_in_terminal(session)
