"""Launches that cannot work are refused with the way out; a single process needs no torch."""

import os
import subprocess
import sys

import pytest

from lora_mm import distributed
from lora_mm.errors import InputError

TWO = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_sharded_training_is_refused(name: str, two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(InputError, match=f"^{name} is not supported.*without {name}"):
        distributed.init_process_group()


def test_more_processes_than_gpus_are_refused(two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match=r"^2 processes but 1 GPU; use --nproc-per-node 1\.$"):
        distributed.init_process_group()


def test_becoming_a_single_process_hides_the_launcher(two_processes: None) -> None:
    assert (distributed.world_size(), distributed.rank()) == (2, 0)
    distributed.become_single_process()
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert not set(TWO) & set(os.environ)


def test_a_single_process_imports_no_torch() -> None:
    code = """
import sys
from lora_mm import distributed as d
d.init_process_group(), d.barrier(), d.destroy_process_group()
assert d.any_rank(True) and d.is_first_to_fail()
sys.exit("torch" in sys.modules)
"""
    clean = {name: value for name, value in os.environ.items() if name not in TWO}
    assert subprocess.run([sys.executable, "-c", code], env=clean, check=False).returncode == 0
