"""Gradients and first weights of two processes."""

import textwrap
from pathlib import Path

from tests.helpers.launch import two

SCRIPT = """
import torch
from torch import nn

from lora_mm import distributed
from lora_mm.training.gradients import equal_weights, mean_gradients

distributed.join()
mine = distributed.rank()
assert distributed.any_of(mine == 1) and not distributed.any_of(False)

model = nn.ModuleDict({name: nn.Linear(2, 3, bias=False) for name in ("both", "one", "none", "frozen")})
model["frozen"].requires_grad_(False)
for parameter in model.parameters():
    nn.init.constant_(parameter, mine + 1)
equal_weights(model)
values = {name: layer.weight.unique().tolist() for name, layer in model.items()}
assert values == {"both": [1], "one": [1], "none": [1], "frozen": [mine + 1]}, values

model["both"].weight.grad = torch.full((3, 2), 2.0 + 4 * mine)
if mine:
    model["one"].weight.grad = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
mean_gradients(model)
assert model["both"].weight.grad.unique().tolist() == [4]
assert model["one"].weight.grad.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]], "of a process without one it counts as zero"
assert model["none"].weight.grad is None and model["frozen"].weight.grad is None

distributed.part()
if mine == 0:
    distributed.alone()
    assert (distributed.count(), distributed.rank(), distributed.any_of(True)) == (1, 0, True)
"""


def test_gradients_become_their_mean_and_first_weights_those_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = two(tmp_path / "script.py")
    assert done.returncode == 0, done.stderr
