"""``lora-mm models``: lists and shows model families. Holds no logic."""

from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption
from lora_mm.errors import InputError
from lora_mm.json_text import to_json
from lora_mm.printable import echo

app = typer.Typer(help="List tested model families, and show what is in a model.", no_args_is_help=True)


def complete_family(incomplete: str) -> list[str]:
    """List model types that start with ``incomplete``."""
    from lora_mm.models.families import FAMILIES

    return [name for name in FAMILIES if name.startswith(incomplete)]


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the model types that are tested, as ``config.json`` names them, with the methods that each supports."""
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
        str | None,
        typer.Argument(
            help="Model type, as config.json names it.", metavar="[MODEL_TYPE]", autocompletion=complete_family
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base to look into, in place of a type: Hub id, folder, or pocket.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what lora-mm finds in a model: its parts, the roles in its layers, and the methods that apply.

    No weights are loaded. What it finds wrongly, or not at all, can be said in a recipe's base.anatomy.
    """
    if (model_type is None) is (model is None):
        raise InputError("Name a model type, or a base with --model.")
    from lora_mm.jobs.show_model import describe_base, describe_model_type, explain_methods

    facts = describe_base(model) if model is not None else describe_model_type(str(model_type))
    if as_json:
        echo(to_json(facts))
        return
    import yaml

    shown = facts | {"methods": explain_methods(facts["methods"])}
    echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120), end="")
