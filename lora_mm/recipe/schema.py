"""The JSON schema of recipe files, for editors that complete and check YAML. Knows the sections; reads no file."""

import re
from typing import Any

from lora_mm.adapters.methods import METHODS
from lora_mm.recipe.sections import Recipe


def file_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe's file, for editors.

    It asks less than a resolved recipe: what a file does not say, the recipe that it extends may.
    """
    schema = Recipe.model_json_schema()
    needed = schema.pop("required")
    name = {"type": "string"}
    schema["properties"]["extends"] = {
        "description": "Recipes or files below this one; of several, each goes on top of those before it.",
        "anyOf": [name, {"type": "array", "items": name}],
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": needed}]
    for section in ("BaseSection", "DataSection"):
        schema["$defs"][section].pop("required", None)
    method = {"enum": list(METHODS), "description": "short for a placement with the method's usual values"}
    placement = schema["properties"]["adapters"].pop("items")
    listed = {**schema["properties"]["adapters"], "items": {"anyOf": [method, placement]}}
    schema["properties"]["adapters"] = {"anyOf": [method, listed, {"type": "null"}]}
    for section in (schema, *schema["$defs"].values()):
        _describe(section)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _describe(section: dict[str, Any]) -> None:
    """Give every key of a section the description that the section's docstring has for it."""
    summary, _, attributes = section.get("description", "").partition("\n\nAttributes:\n")
    section["description"] = summary
    for entry in re.split(r"\n(?=    \w)", f"\n{attributes}"):
        names, _, told = entry.strip().partition(": ")
        for name in names.split(", "):
            if name in section["properties"]:
                section["properties"][name]["description"] = " ".join(told.split())
