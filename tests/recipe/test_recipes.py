"""The recipes that ship: each says how it is run, reads without a fault, and has a twin on drawn data that runs."""

import importlib.util
import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from lora_mm.adapters.attach import attach
from lora_mm.adapters.methods import METHODS
from lora_mm.evaluation.answers import load_answers
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.run_folder import load_scores
from lora_mm.models.anatomy import find_part
from lora_mm.recipe.load import load_recipe, recipe_file, recipe_names
from lora_mm.recipe.schema import file_schema
from tests.helpers.families import family_model

REAL = [name for name in recipe_names() if not name.endswith("-pocket")]
TWINS = {f"{name}-pocket": name for name in REAL}
METRIC = {
    "scienceqa": "scienceqa",
    "scienceqa-qwen3-vl": "scienceqa",
    "scienceqa-smolvlm": "scienceqa",
    "monkey": "scienceqa",
    "vqa-short-answer": "vqa",
    "captioning": "caption",
    "document-ocr": "contains",
    "diagram-choice": "choice",
    "own-data": "vqa",
}


def test_every_real_recipe_has_its_twin_and_every_twin_its_recipe() -> None:
    assert set(recipe_names()) == set(REAL) | set(TWINS)
    assert set(REAL) == set(METRIC)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_reads_and_its_header_says_how_to_run_it(name: str) -> None:
    recipe = load_recipe(name)
    text = recipe_file(name).read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert recipe.name == name
    assert recipe.summary
    command = f"lora-mm finetune --recipe {name}"
    assert any(command in line for line in header) or "lora-mm finetune --recipe mine.yaml" in "".join(header)
    assert all(len(line) <= 125 for line in text.splitlines())
    assert ("Needs one CUDA card" in text) is (name in REAL)


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_a_recipe_is_in_the_schema(name: str) -> None:
    schema = file_schema()

    def resolve(node: dict[str, object]) -> list[dict[str, object]]:
        """What a schema's node can be, references followed."""
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


def test_the_schema_has_what_editors_show() -> None:
    schema = file_schema()
    assert schema["anyOf"] == [{"required": ["extends"]}, {"required": ["name", "base", "data"]}]
    assert schema["properties"]["adapters"]["anyOf"][0]["enum"] == list(METHODS)
    path = schema["$defs"]["DataSection"]["properties"]["path"]
    assert "JSON lines" in path["description"]
    assert "Attributes" not in json.dumps(schema)


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_takes_all_but_base_and_size_from_its_recipe(twin: str) -> None:
    small, real = load_recipe(twin), load_recipe(TWINS[twin])
    assert small.base.model == "pocket"
    assert small.base.quantization == "none"
    assert {item.method for item in small.adapters} == {item.method for item in real.adapters}
    assert small.evaluation.metric == real.evaluation.metric
    assert small.data.question == real.data.question


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_runs(twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin == "captioning-pocket" and importlib.util.find_spec("sacrebleu") is None:
        pytest.skip("sacrebleu is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    least = 220 if METRIC[TWINS[twin]] == "scienceqa" else 100
    small = ["training.max_steps=2", "training.per_device_train_batch_size=4", f"data.pocket.size={least}",
             "data.train_limit=16", "data.eval_limit=8", "training.logging_steps=1"]  # fmt: skip
    recipe = load_recipe(twin, small)
    outcome = finetune(recipe, tmp_path / "run", Console(file=io.StringIO(), width=100))
    assert outcome is not None
    facts = load_scores(tmp_path / "run")
    assert facts["metric"] == METRIC[TWINS[twin]]
    assert facts["scores"]["adapter"]["columns"]
    assert len(load_answers(tmp_path / "run" / "predictions-adapter.jsonl")) == 8
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")) == recipe
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert recipe.summary in page
    assert "data:image/jpeg;base64" in page


FAMILY = {
    "llava-hf/llava-1.5-7b-hf": "llava",
    "llava-hf/llava-v1.6-vicuna-7b-hf": "llava_next",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen3_vl",
    "HuggingFaceTB/SmolVLM-Instruct": "idefics3",
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_recipes_adapters_fit_a_tiny_model_of_its_bases_family(name: str) -> None:
    recipe = load_recipe(name)
    model = attach(family_model(FAMILY[recipe.base.model]), recipe.adapters, train=recipe.train)
    found = {item.part for item in recipe.adapters}
    adapted = {find_part(model.get_base_model(), path) for path in model.peft_config["default"].targets}
    assert adapted == found
