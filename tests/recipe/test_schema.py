"""The JSON schema accepts what recipes say, and describes every key."""

import inspect
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.placement import Placement
from lora_mm.recipe import base_section, data_section, sections
from lora_mm.recipe.load import recipe_file, recipe_names
from lora_mm.recipe.schema import file_schema
from lora_mm.section import Section


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
    assert sorted(unknown(written, schema, "")) == [".data.overlong=eror", ".training.sed"]


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


def list_sections() -> set[type[Section]]:
    return {
        value for module in (base_section, data_section, sections) for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Section) and value is not Section
    }  # fmt: skip


def test_every_described_key_exists() -> None:
    """Otherwise the description of a renamed key is lost silently."""
    for section in list_sections():
        _, _, attributes = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")
        described = re.findall(r"^ {4}(\w+):", attributes, flags=re.MULTILINE)
        if described:
            assert set(described) == set(section.__annotations__), section.__name__


def list_numbers(node: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and node of every number in a schema."""
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield path, node
        for key, value in node.items():
            yield from list_numbers(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from list_numbers(value, path)


def test_every_number_has_a_lower_and_an_upper_bound() -> None:
    numbers = list(list_numbers(file_schema()))
    assert len(numbers) > 30
    for path, node in numbers:
        assert {"minimum", "exclusiveMinimum"} & set(node), path
        assert {"maximum", "exclusiveMaximum"} & set(node), path


def test_no_number_is_a_boolean_or_infinite() -> None:
    """In every section, whatever its other fields are."""
    for section in (*list_sections(), Placement):
        for name, field in dict(getattr(section, "model_fields", None) or section.__pydantic_fields__).items():
            if not list(list_numbers(TypeAdapter(field.annotation).json_schema())):
                continue
            for value in (True, math.nan, math.inf, "nan", "-inf", [False]):
                with pytest.raises(ValidationError) as caught:
                    TypeAdapter(section).validate_python({name: value})
                assert any(error["loc"][:1] == (name,) for error in caught.value.errors()), (section, name, value)
