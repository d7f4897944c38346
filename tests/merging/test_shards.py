"""Checkpoints written shard by shard: what is in the files, and what is in memory meanwhile."""

import json
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

import lora_mm
from lora_mm.errors import LoraMMError
from lora_mm.merging import shards
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.shards import CheckpointPlan
from lora_mm.merging.writers import write_model
from lora_mm.models.loading import load_base


def test_a_large_model_is_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 1_000_000)
    base = load_base("pocket")
    lora_mm.attach(base.model, [{"method": "mma", "rank": 4}])
    write_model(base.model, collect_changes(base.model, "text"), tmp_path, base=base, dtype=torch.float32)
    files = sorted(tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 5
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(file.stat().st_size for file in files) - headers(files)
    merged, loading = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    for name, tensor in load_base("pocket").model.state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor), name


def headers(files: list[Path]) -> int:
    return sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files)


def test_memory_holds_one_shard_and_each_tensor_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 1_000_000)
    plan = CheckpointPlan(load_base("pocket").model, torch.float32)
    alive: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
    asked: Counter[str] = Counter()
    peak = 0

    def get_tensor(name: str) -> Tensor:
        nonlocal peak
        asked[name] += 1
        value = torch.full(plan.tensors[name].shape, float(len(asked)))
        alive.add(value.untyped_storage())
        peak = max(peak, sum(storage.nbytes() for storage in alive))
        return value

    plan.write(tmp_path, get_tensor)
    largest = max(value.numel() * 4 for value in plan.tensors.values())
    assert set(asked) == set(plan.tensors)
    assert set(asked.values()) == {1}
    assert plan.total_bytes > 5_000_000
    assert peak <= 1_000_000 + largest
    written = {name: value for file in tmp_path.glob("*.safetensors") for name, value in load_file(file).items()}
    assert sum(value.numel() * 4 for value in written.values()) == plan.total_bytes


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    plan = CheckpointPlan(load_base("pocket").model, torch.float32)
    with pytest.raises(LoraMMError, match=r"shape \(2, 3\), but the checkpoint needs"):
        plan.write(tmp_path, lambda name: torch.zeros(2, 3))
