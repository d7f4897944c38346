"""``lora-mm generate``: answers one prompt with each adapter. Holds no logic."""

from typing import Annotated

import typer

from lora_mm.cli.options import AcceptOption, AdaptersArgument, JsonOption, MaxNewTokensOption, SetOption
from lora_mm.printable import echo


def generate(
    adapters: AdaptersArgument,
    prompt: Annotated[str, typer.Option(help="The question or instruction.")],
    images: Annotated[
        list[str],
        typer.Option("--image", help="Picture of the prompt: a file or a URL. Can be repeated.", metavar="FILE|URL"),
    ] = [],
    adapter_names: Annotated[
        list[str],
        typer.Option("--adapter-name", help="Name of an adapter that answers; by default all. Can be repeated."),
    ] = [],
    base_only: Annotated[
        bool, typer.Option("--base-only", help="Answer with the frozen base, without adapter.")
    ] = False,
    max_new_tokens: MaxNewTokensOption = 256,
    accept: AcceptOption = [],
    overrides: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Answer one prompt, with or without pictures, with each adapter."""
    from lora_mm.data.cells import check_characters
    from lora_mm.data.example import Turn
    from lora_mm.data.fetch import fetch_picture
    from lora_mm.jobs.inference import load_adapted

    check_characters("--prompt", prompt)
    turn = Turn("user", prompt, tuple(fetch_picture(address) for address in images))
    model = load_adapted(
        adapters, overrides, accept=[item.value for item in accept], only=adapter_names, base_only=base_only
    )
    answers: dict[str, str] = {}
    names: list[str | None] = [*model.names] or [None]
    for name in names:
        model.activate(name)
        if len(names) > 1 and not as_json:
            echo(f"{name}: ", end="")
        answers[name or "frozen base"] = model.reply(
            [turn],
            max_new_tokens=max_new_tokens,
            write=lambda text: None if as_json else echo(text, end=""),
        )
        if not as_json:
            echo()
    if as_json:
        from lora_mm.json_text import to_json

        echo(to_json({"prompt": prompt, "images": images, "answers": answers}))
