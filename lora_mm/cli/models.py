"""``lora-mm models``: lists and shows the supported model families. Holds no logic and never imports torch."""

from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption
from lora_mm.json_text import to_json
from lora_mm.printable import echo

app = typer.Typer(help="List and show the supported model families.", no_args_is_help=True)


def complete_family(incomplete: str) -> list[str]:
    """List model types that start with ``incomplete``."""
    from lora_mm.models.families import FAMILIES

    return [name for name in FAMILIES if name.startswith(incomplete)]


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List model types, as ``config.json`` names them, with the methods that each supports."""
    from lora_mm.adapters.support import list_methods
    from lora_mm.models.families import FAMILIES

    table = {
        name: [method for method, reason in list_methods(row).items() if reason is None]
        for name, row in FAMILIES.items()
    }
    if as_json:
        echo(to_json(table))
        return
    width = max(map(len, table))
    for name, methods in table.items():
        echo(f"{name:{width}}  {' '.join(methods)}")


@app.command()
def show(
    model_type: Annotated[
        str,
        typer.Argument(
            help="Model type, as config.json names it.", metavar="MODEL_TYPE", autocompletion=complete_family
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show a model family: its parts, the roles in its layers, how it sees pictures, and the methods it supports."""
    from lora_mm.adapters.support import describe_model_type

    facts = describe_model_type(model_type)
    if as_json:
        echo(to_json(facts))
        return
    import yaml

    for parts in facts["methods"].values():
        parts.update({part: f"does not apply, {reason}" if reason else "applies" for part, reason in parts.items()})
    echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120), end="")
