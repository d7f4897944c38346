"""The packaged recipes: each has its command in its header, is valid, and has a pocket twin that runs."""

import importlib.util
import io
from pathlib import Path

import pytest
from rich.console import Console

from lora_mm.adapters.attach import attach
from lora_mm.evaluation.answers import load_answers
from lora_mm.jobs.finetune import finetune
from lora_mm.jobs.run_folder import load_scores
from lora_mm.models.anatomy import find_part
from lora_mm.recipe.load import load_recipe, recipe_file, recipe_names
from tests.helpers.families import family_model

REAL = [name for name in recipe_names() if not name.endswith("-pocket")]
TWINS = {f"{name}-pocket": name for name in REAL}
METRIC = {
    "scienceqa": "scienceqa",
    "scienceqa-qwen3-vl": "scienceqa",
    "scienceqa-smolvlm": "scienceqa",
    "scienceqa-lora": "scienceqa",
    "scienceqa-visual-expert": "scienceqa",
    "scienceqa-moe": "scienceqa",
    "monkey": "scienceqa",
    "vqa-short-answer": "vqa",
    "captioning": "caption",
    "document-ocr": "contains",
    "diagram-choice": "choice",
    "own-data": "vqa",
}


def test_every_real_recipe_has_a_pocket_twin() -> None:
    assert set(recipe_names()) == set(REAL) | set(TWINS)
    assert set(REAL) == set(METRIC)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid_and_its_header_has_the_command(name: str) -> None:
    recipe = load_recipe(name)
    text = recipe_file(name).read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert recipe.name == name
    assert recipe.summary
    command = f"lora-mm finetune --recipe {name}"
    assert any(command in line for line in header) or "lora-mm finetune --recipe mine.yaml" in "".join(header)
    assert all(len(line) <= 125 for line in text.splitlines())
    assert ("Needs one CUDA card" in text) is (name in REAL)


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_differs_from_its_recipe_in_base_and_size_only(twin: str) -> None:
    small, real = load_recipe(twin), load_recipe(TWINS[twin])
    assert small.base.model == "pocket"
    assert small.base.quantization == "none"
    assert {item.method for item in small.adapters} >= {item.method for item in real.adapters}
    assert small.evaluation.metric == real.evaluation.metric
    assert small.data.question == real.data.question


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_runs(twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin == "captioning-pocket" and importlib.util.find_spec("sacrebleu") is None:
        pytest.skip("sacrebleu is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    least = 220 if METRIC[TWINS[twin]] == "scienceqa" else 100
    small = ["training.max_steps=2", "training.per_device_train_batch_size=4", f"data.pocket.size={least}",
             "data.train_limit=16", "data.eval_limit=8", "training.logging_steps=1"]  # fmt: skip
    if twin == "own-data-pocket":  # one twin in bf16 is enough: processors without it take 20 times as long
        small.append("base.dtype=bfloat16")
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
def test_the_adapters_of_a_real_recipe_fit_a_tiny_model_of_the_same_family(name: str) -> None:
    recipe = load_recipe(name)
    model = attach(family_model(FAMILY[recipe.base.model]), recipe.adapters, train=recipe.train)
    expected = {item.part for item in recipe.adapters}
    config = model.peft_config["default"]
    paths = getattr(config, "targets", None) or config.target_modules  # plain LoRA is PEFT's own
    adapted = {find_part(model.get_base_model(), path) for path in paths}
    assert adapted == expected
