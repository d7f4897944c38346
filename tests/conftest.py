"""Fixtures that several tests share. Folders are made once a session and never written to by a test."""

import os
import signal
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as for what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # which nohup ignores
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from tests.helpers import tiny

torch.set_num_threads(1)  # on models this small, threads wait for each other longer than they compute


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def trained(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of finished runs on one base: ``one``, ``two`` of MMA and the connector, ``experts`` by visual token,
    ``crops`` by crop, with pictures cut for it."""
    from rich.console import Console

    from lora_mm.jobs.finetune import finetune
    from lora_mm.recipe.load import load_recipe

    root = tmp_path_factory.mktemp("trained")
    settings = ["evaluation.base=false", "training.max_steps=3"]
    expert = "adapters=[{method: visual_expert, rank: 4}]"
    crops = ["adapters=[{method: crop_lora, at: attn, rank: 4}]", "data.slicing={rows: 2, columns: 2}"]
    runs = {
        "one": ["training.learning_rate=0.02"],
        "two": ["training.learning_rate=0.03", "training.seed=3"],
        "experts": ["training.learning_rate=0.03", "train=[]", expert],
        "crops": ["training.learning_rate=0.03", "train=[]", *crops],
    }
    recipe = str(tiny.make_recipe(root / "tiny.yaml", base_folder, scienceqa_folder))
    for name, own in runs.items():
        finetune(load_recipe(recipe, [*settings, *own]), root / name, Console(quiet=True))
    return {name: root / name for name in runs}


@pytest.fixture(scope="session")
def scienceqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_scienceqa(tmp_path_factory.mktemp("scienceqa"))
