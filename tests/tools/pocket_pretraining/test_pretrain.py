"""The pretraining's schedule, and the folder that it saves."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lora_mm.pocket import BASE
from tools.pocket_pretraining.learner import Learner
from tools.pocket_pretraining.pretrain import learning_rate_factor, save


def test_a_saved_base_replaces_the_folder_and_loads_without_lora_mm(tmp_path: Path) -> None:
    base = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "old").touch()
    save(Learner(base, AutoProcessor.from_pretrained(BASE).tokenizer), tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert {path.name for path in (tmp_path / "base").iterdir()} == {path.name for path in BASE.iterdir()}
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    assert saved.dtype == torch.bfloat16
    weights = base.state_dict()
    assert all(torch.equal(tensor.float(), weights[name]) for name, tensor in saved.state_dict().items())


def test_the_learning_rate_warms_up_and_falls() -> None:
    factors = [learning_rate_factor(step, 400) for step in range(400)]
    assert factors[0] == 1 / 40
    assert max(factors) == factors[200] == 1
    assert factors[-1] < 0.06
