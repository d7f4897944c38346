"""Gradients and first weights over two ranks."""

import textwrap
from pathlib import Path

import pytest

from tests.helpers.launch import launch_two

pytestmark = pytest.mark.distributed

SCRIPT = """
import torch
from torch import nn

from lora_mm import distributed
from lora_mm.training.gradients import average_gradients, broadcast_weights

distributed.init_process_group()
rank = distributed.rank()
assert distributed.any_rank(rank == 1) and not distributed.any_rank(False)

model = nn.ModuleDict({name: nn.Linear(2, 3, bias=False) for name in ("both", "one", "none", "frozen")})
model["frozen"].requires_grad_(False)
for parameter in model.parameters():
    nn.init.constant_(parameter, rank + 1)
broadcast_weights(model)
values = {name: layer.weight.unique().tolist() for name, layer in model.items()}
assert values == {"both": [1], "one": [1], "none": [1], "frozen": [rank + 1]}, values

model["both"].weight.grad = torch.full((3, 2), 2.0 + 4 * rank)
if rank:
    model["one"].weight.grad = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
average_gradients(model)
assert model["both"].weight.grad.unique().tolist() == [4]
assert model["one"].weight.grad.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]], "a rank without a gradient counts as zero"
assert model["none"].weight.grad is None and model["frozen"].weight.grad is None

distributed.destroy_process_group()
if rank == 0:
    distributed.become_single_process()
    assert (distributed.world_size(), distributed.rank(), distributed.any_rank(True)) == (1, 0, True)
"""


def test_gradients_are_averaged_and_weights_are_those_of_rank_0(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = launch_two(tmp_path / "script.py")
    assert done.returncode == 0, done.stderr
