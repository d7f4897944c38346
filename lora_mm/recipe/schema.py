"""Makes the JSON schema of recipe files, for editors and for the reference of keys. Reads no recipe."""

import inspect
import re
from typing import Any

from lora_mm.adapters.methods import METHODS
from lora_mm.recipe.data_section import SourceKeys
from lora_mm.recipe.sections import Recipe

_ATTRIBUTES = "\n\nAttributes:\n"


def file_schema() -> dict[str, Any]:
    """Make the JSON schema (draft 2020-12) of a recipe file.

    It requires less than a complete recipe: a file with ``extends`` can leave any key to the recipe that it extends.

    Returns:
        The schema. Every key has a ``description``.
    """
    schema = Recipe.model_json_schema()
    required = schema.pop("required")
    name = {"type": "string"}
    schema["properties"]["extends"] = {
        "description": "Recipe or file that this one extends, or a list of them; later ones override earlier ones.",
        "anyOf": [name, {"type": "array", "items": name}],
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    for section in ("BaseSection", "DataSection"):
        schema["$defs"][section].pop("required", None)
    method = {"enum": list(METHODS), "description": "A placement of this method with its default values."}
    placement = schema["properties"]["adapters"].pop("items")
    placements = {**schema["properties"]["adapters"], "items": {"anyOf": [method, placement]}}
    schema["properties"]["adapters"] = {"anyOf": [method, placements, {"type": "null"}]}
    for section in (schema, *schema["$defs"].values()):
        summary, _, attributes = section.get("description", "").partition(_ATTRIBUTES)
        section["description"] = summary
        _add_descriptions(section, attributes)
    shared = inspect.cleandoc(str(SourceKeys.__doc__)).partition(_ATTRIBUTES)[2]
    for heir in ("DataSection", "SourceSection"):  # pydantic describes a class by its own docstring alone
        _add_descriptions(schema["$defs"][heir], shared)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _add_descriptions(section: dict[str, Any], attributes: str) -> None:
    """Give keys of a section their descriptions from the ``Attributes:`` of a docstring."""
    for entry in re.split(r"\n(?=    \w)", f"\n{attributes}"):
        name, _, description = entry.strip().partition(": ")
        if name in section["properties"]:
            section["properties"][name]["description"] = " ".join(description.split())
