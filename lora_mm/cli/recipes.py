"""``lora-mm recipes``: lists, shows, copies and checks recipes. Holds no logic and never imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import JsonOption, SetOption, complete_recipe, parse_path
from lora_mm.errors import InputError
from lora_mm.json_text import to_json
from lora_mm.printable import echo

app = typer.Typer(help="List, show, copy and check recipes, and print their JSON schema.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.", autocompletion=complete_recipe)]


@app.command("list")
def list_recipes(as_json: JsonOption = False) -> None:
    """List the packaged recipes, each with a summary."""
    from lora_mm.recipe.load import load_recipe, recipe_names

    summaries = {name: load_recipe(name).summary for name in recipe_names()}
    if as_json:
        echo(to_json(summaries))
        return
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        echo(f"{name:{width}}  {summary}")


@app.command()
def show(name: Name, overrides: SetOption = []) -> None:
    """Print a complete recipe, merged with what it extends, as YAML."""
    from lora_mm.recipe.load import load_recipe

    echo(load_recipe(name, overrides).to_yaml(), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipe files, for editors that complete and check YAML."""
    import json

    from lora_mm.recipe.schema import file_schema

    echo(json.dumps(file_schema(), indent=1, ensure_ascii=False))


@app.command()
def copy(
    name: Name, file: Annotated[Path, typer.Argument(parser=parse_path, metavar="FILE", help="YAML file to write.")]
) -> None:
    """Copy a recipe, with its comments, as a start for your own."""
    from lora_mm.atomic import explain_write_errors
    from lora_mm.recipe.load import recipe_file

    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"{file}: a recipe file must end in .yaml.")
    if file.exists():
        raise InputError(f"{file}: exists; name another file.")
    text = recipe_file(name).read_text(encoding="utf-8")
    with explain_write_errors(file):
        file.write_text(text, encoding="utf-8")
    echo(f"Wrote {file}. Change it, then: lora-mm recipes check {file}")


@app.command()
def check(name: Name, overrides: SetOption = []) -> None:
    """Validate a recipe and report all faults."""
    from lora_mm.recipe.load import load_recipe

    recipe = load_recipe(name, overrides)
    echo(f"{name}: valid. Base {recipe.base.model}, data {recipe.data.location}.")
