"""Options that several verbs share, and completion of recipe names. Holds no logic."""

from enum import StrEnum
from typing import Annotated

import typer


def complete_recipe(incomplete: str) -> list[str]:
    """Recipe names that begin with what was typed."""
    from lora_mm.recipe.load import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_logger(incomplete: str) -> list[str]:
    """Loggers that begin with what was typed."""
    from typing import get_args

    from lora_mm.recipe.sections import Logger

    return [name for name in get_args(Logger) if name.startswith(incomplete)]


RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="Name of a recipe, or a YAML file.", autocompletion=complete_recipe)
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", help="Change a key of the recipe: key.sub=value. May be repeated.", metavar="KEY=VALUE"),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else there.")
]
AdapterArgument = Annotated[
    str, typer.Argument(help="Adapter: a folder, a packed file, or a Hub id (ID@REVISION).", metavar="ADAPTER")
]
AdaptersArgument = Annotated[
    list[str],
    typer.Argument(help="Adapters of one base: folders, packed files, or Hub ids (ID@REVISION).", metavar="ADAPTER…"),
]


class AcceptedMismatch(StrEnum):
    """A mismatch between an adapter and its base that a user may accept."""

    base = "base"
    inputs = "inputs"


AcceptOption = Annotated[
    list[AcceptedMismatch],
    typer.Option("--accept", help="Use another base, or differently prepared inputs, knowingly. May be repeated."),
]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")]
