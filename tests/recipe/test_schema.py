"""The JSON schema accepts what recipes say, and describes every key."""

import json
import re
from typing import Any

import pytest
import yaml

from lora_mm.adapters.methods import METHODS
from lora_mm.recipe import base_section, data_section, sections
from lora_mm.recipe.load import recipe_file, recipe_names
from lora_mm.recipe.schema import file_schema
from lora_mm.recipe.section import Section


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_a_recipe_is_in_the_schema(name: str) -> None:
    schema = file_schema()

    def resolve(node: dict[str, object]) -> list[dict[str, object]]:
        """The alternatives of a schema's node, with references resolved."""
        if "$ref" in node:
            return resolve(schema["$defs"][str(node["$ref"]).rpartition("/")[2]])
        options = node.get("anyOf")
        if isinstance(options, list) and "properties" not in node:
            return [found for option in options for found in resolve(option)]
        return [node]

    def unknown(value: object, node: dict[str, object], path: str) -> list[str]:
        options = resolve(node)
        if isinstance(value, dict):
            known: dict[str, dict[str, object]] = {}
            for option in options:
                known |= option.get("properties", {})  # type: ignore[arg-type]
            places = {key: f"{path}.{key}" for key in value}
            strange = [place for key, place in places.items() if key not in known]
            deeper = [unknown(value[key], known[key], place) for key, place in places.items() if key in known]
            return [*(found for faults in deeper for found in faults), *strange]
        if isinstance(value, list):
            items = next(option["items"] for option in options if "items" in option)
            return [found for item in value for found in unknown(item, items, path)]  # type: ignore[arg-type]
        allowed = [option["enum"] for option in options if "enum" in option]
        listed = [choice for choices in allowed for choice in choices]  # type: ignore[attr-defined]
        return [] if len(allowed) < len(options) or value in listed else [f"{path}={value}"]

    written = yaml.safe_load(recipe_file(name).read_text(encoding="utf-8"))
    assert unknown(written, schema, "") == []
    written["training"] = {"sed": 1}
    written["data"] = {"overlong": "eror"}
    assert unknown(written, schema, "") == [".data.overlong=eror", ".training.sed"]


def test_the_schema_offers_methods_and_extends() -> None:
    schema = file_schema()
    assert schema["anyOf"] == [{"required": ["extends"]}, {"required": ["name", "base", "data"]}]
    assert schema["properties"]["adapters"]["anyOf"][0]["enum"] == list(METHODS)
    path = schema["$defs"]["DataSection"]["properties"]["path"]
    assert "JSON lines" in path["description"]
    assert "Attributes" not in json.dumps(schema)


def described_keys() -> list[tuple[str, str, dict[str, Any]]]:
    """Section, key and schema of each key of a recipe file."""
    schema = file_schema()
    sections = {"Recipe": schema, **schema["$defs"]}
    return [(name, key, node) for name, section in sections.items() for key, node in section["properties"].items()]


@pytest.mark.parametrize(("section", "key", "node"), described_keys(), ids=lambda value: str(value)[:30])
def test_every_key_has_a_description(section: str, key: str, node: dict[str, Any]) -> None:
    if "description" not in node:  # adapters: the description is that of its list of placements
        node = next(option for option in node["anyOf"] if "description" in option and "items" in option)
    assert node["description"], f"{section}.{key}"
    if section != "Placement":  # whose descriptions follow the style of its own package
        assert node["description"][0].isupper() or node["description"].startswith("``"), f"{section}.{key}"
        assert node["description"].endswith("."), f"{section}.{key}"


def test_every_described_key_exists() -> None:
    """A description of a key that was renamed would be lost without a word."""
    classes = {
        value for module in (base_section, data_section, sections) for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Section) and value is not Section
    }  # fmt: skip
    for section in classes:
        _, _, attributes = (section.__doc__ or "").partition("Attributes:\n")
        described = [
            line.strip().split(":")[0]
            for line in attributes.splitlines()
            if line.startswith(" " * 8) and line[8] != " "
        ]
        if described:
            assert set(described) == set(section.model_fields), section.__name__
