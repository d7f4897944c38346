"""Probes of each modality: from the data if available, else random, and named so."""

from pathlib import Path

import pytest
import torch

from lora_mm.jobs.merge_probes import _MAX_TOKENS, PROBES_PER_MODALITY, make_probes
from lora_mm.jobs.session import load_recipe_base, make_base_collator
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.recipe.load import load_recipe
from tests.helpers.tiny import make_recipe


@pytest.fixture(scope="module")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", base_folder, scienceqa_folder)


@pytest.mark.parametrize("path", [None, "/no/such/data"])
def test_each_modality_has_probes_with_and_without_data(recipe_file: Path, path: str | None) -> None:
    recipe = load_recipe(str(recipe_file), [f"data.path={path}"] if path else [])
    collator = make_base_collator(recipe, load_recipe_base(recipe))
    made = make_probes(recipe, collator, ["text", "image"])
    for modality, (batch,) in made.batches.items():
        assert len(batch["input_ids"]) == PROBES_PER_MODALITY
        pictured = (batch["input_ids"] == 3).any(dim=1)
        assert pictured.all() if modality == "image" else not pictured.any()
        supervised = (batch["labels"] != IGNORE_INDEX).sum(dim=1)
        assert supervised.gt(0).all()
        assert supervised.le(_MAX_TOKENS).all()
    if path:
        assert "data.path is not available" in made.about
        assert "random probes for text and image" in made.about
        again = make_probes(recipe, collator, ["text", "image"])
        assert torch.equal(made.batches["image"][0]["pixel_values"], again.batches["image"][0]["pixel_values"])
    else:
        assert made.about == f"rows of {recipe.data.path} test"
