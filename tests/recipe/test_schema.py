"""The JSON schema accepts what recipes say, and describes every key."""

import inspect
import json
import re

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


def test_every_key_has_a_description_that_reads_alone() -> None:
    schema = file_schema()
    for name, section in {"Recipe": schema, **schema["$defs"]}.items():
        for key, node in section["properties"].items():
            if "description" not in node:  # adapters: the description is that of its list of placements
                node = next(option for option in node["anyOf"] if "description" in option and "items" in option)
            description = node["description"]
            assert description, f"{name}.{key}"
            if name != "Placement":  # the adapters' own class
                assert description[0].isupper() or description.startswith("``"), f"{name}.{key}"
                assert description.endswith("."), f"{name}.{key}"


def test_every_described_key_exists() -> None:
    """Otherwise the description of a renamed key is lost silently."""
    classes = {
        value for module in (base_section, data_section, sections) for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Section) and value is not Section
    }  # fmt: skip
    for section in classes:
        _, _, attributes = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")
        described = re.findall(r"^ {4}(\w+):", attributes, flags=re.MULTILINE)
        if described:
            assert set(described) == set(section.__annotations__), section.__name__
