"""Options that several commands share, and shell completion of their values. Holds no logic."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lora_mm.paths import resolve_path


def parse_path(text: str) -> Path:
    """Read the value of an option that is a path, for ``parser`` of an option."""
    return resolve_path(text, "path")


def complete_recipe(incomplete: str) -> list[str]:
    """List recipes that start with ``incomplete``."""
    from lora_mm.recipe.load import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_logger(incomplete: str) -> list[str]:
    """List loggers that start with ``incomplete``."""
    from typing import get_args

    from lora_mm.recipe.sections import Logger

    return [name for name in get_args(Logger) if name.startswith(incomplete)]


RecipeOption = Annotated[
    str,
    typer.Option("--recipe", "-r", help="Name of a recipe, or a YAML file.", autocompletion=complete_recipe),
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", help="Override a key of the recipe: key.sub=value. Can be repeated.", metavar="KEY=VALUE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else to standard output.")]
AdapterArgument = Annotated[
    str, typer.Argument(help="Adapter: a folder, a packed file or a Hub id (ID@REVISION).", metavar="ADAPTER")
]
AdaptersArgument = Annotated[
    list[str],
    typer.Argument(help="Adapters of one base: folders, packed files or Hub ids (ID@REVISION).", metavar="ADAPTER…"),
]


class AcceptedMismatch(StrEnum):
    """A mismatch between an adapter and its base that a user may accept."""

    base = "base"
    inputs = "inputs"


AcceptOption = Annotated[
    list[AcceptedMismatch],
    typer.Option("--accept", help="Accept another base, or inputs that are prepared differently. Can be repeated."),
]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Maximum number of tokens of an answer.")]
