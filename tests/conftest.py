"""Fixtures that several tests share. Folders are made once a session and never written to by a test."""

import os
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

from tests import tiny

torch.set_num_threads(1)  # on models this small, threads wait for each other longer than they compute

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "scienceqa-sample"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def scienceqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_scienceqa(tmp_path_factory.mktemp("scienceqa"))
