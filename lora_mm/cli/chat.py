"""``lora-mm chat``: a conversation with adapters, in a terminal or through a pipe. Holds no logic."""

import sys

from lora_mm.cli.options import AcceptOption, AdaptersArgument, MaxNewTokensOption, SetOption


def chat(
    adapters: AdaptersArgument,
    max_new_tokens: MaxNewTokensOption = 256,
    accept: AcceptOption = [],
    overrides: SetOption = [],
) -> None:
    """Talk to adapters on one loaded base, switched by name. /help lists the commands.

    Through a pipe every line is a turn, and every answer one line, line breaks in it written as \\n.
    """
    from lora_mm.jobs.chat import Chat, pipe, talk
    from lora_mm.jobs.inference import load_adapted
    from lora_mm.models.memory import format_memory

    speaker = load_adapted(adapters, overrides, accept=[item.value for item in accept])
    session = Chat(
        speaker,
        max_new_tokens,
        write=lambda text: print(text, end="", flush=True),
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    session.tell(f"Base {speaker.base.name}: {format_memory(speaker.model)}.")
    if not sys.stdin.isatty():
        pipe(session)
        return
    session.tell(f"{session.who()} answers; adapters: {', '.join(speaker.names)}. /help lists the commands.")
    talk(session)
