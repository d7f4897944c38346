"""``lora-mm models``: which families of models can be adapted, how, and where. Holds no logic; never imports torch."""

from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption

app = typer.Typer(help="List and show the model families that can be adapted.", no_args_is_help=True)


def complete_family(incomplete: str) -> list[str]:
    """Model types that begin with what was typed."""
    from lora_mm.models.families import FAMILIES

    return [name for name in FAMILIES if name.startswith(incomplete)]


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """Model types (as ``config.json`` names them), and the methods that apply to each."""
    from lora_mm.adapters.support import list_methods
    from lora_mm.models.families import FAMILIES

    table = {
        name: [method for method, reason in list_methods(row).items() if reason is None]
        for name, row in FAMILIES.items()
    }
    if as_json:
        import json

        print(json.dumps(table))
        return
    width = max(map(len, table))
    for name, methods in table.items():
        print(f"{name:{width}}  {' '.join(methods)}")


@app.command()
def show(
    model_type: Annotated[str, typer.Argument(metavar="MODEL_TYPE", autocompletion=complete_family)],
    as_json: JsonOption = False,
) -> None:
    """A family's parts, what its layers hold, how pictures reach it, and which methods apply."""
    from lora_mm.adapters.support import describe_model_type

    facts = describe_model_type(model_type)
    if as_json:
        import json

        print(json.dumps(facts))
        return
    import yaml

    for parts in facts["methods"].values():
        parts.update({part: f"does not apply, {reason}" if reason else "applies" for part, reason in parts.items()})
    print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120), end="")
