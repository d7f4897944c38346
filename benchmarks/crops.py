"""A LoRA for each crop, forward and backward: the grouped product against the masked dense form and the serial one.

    python benchmarks/crops.py [--width 1664] [--tokens 1024] [--crops 4] [--rank 16] [--dtype float32]

Monkey's tower: rows are the crops of a picture and, last, its overview, which has no LoRA.
"""

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import append, medians, table
from torch import Tensor

from lora_mm.ops import kernels
from lora_mm.ops.lowrank import routed_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 1664), ("tokens", 1024), ("crops", 4), ("rank", 16), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device, dtype = ("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, options.dtype)
    crops, width, rank = options.crops, options.width, options.rank

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, device=device, dtype=dtype).requires_grad_()

    torch.manual_seed(0)
    x, base = drawn(crops + 1, options.tokens, width), drawn(crops + 1, options.tokens, width)
    down, up = drawn(crops * rank, width), drawn(crops, width, rank)
    index = torch.tensor([*range(crops), -1], device=device)
    mask = F.one_hot(index.clamp(min=0), crops).to(dtype) * (index >= 0).to(dtype)[:, None]

    def grouped() -> Tensor:
        return routed_update(base, x, down, up, index=index)

    def masked() -> Tensor:
        return routed_update(base, x, down, up, weights=mask.unsqueeze(1))

    def serial() -> Tensor:
        """One view after the other, as Monkey runs them."""
        parts = [
            base[row] + F.linear(F.linear(x[row], down[row * rank : (row + 1) * rank]), up[row]) for row in range(crops)
        ]
        return torch.stack([*parts, base[crops]])

    dy = torch.randn_like(base)

    def step(form: Callable[[], Tensor], choice: kernels.Kernels) -> Callable[[], object]:
        def run() -> object:
            kernels.choose(choice)
            return torch.autograd.grad(form(), (x, base, down, up), dy)

        return run

    forms = {"masked dense": step(masked, "torch"), "serial": step(serial, "torch"), "grouped": step(grouped, "torch")}
    if device == "cuda":
        forms["grouped, Triton"] = step(grouped, "triton")
    took = medians(forms, rounds=options.rounds, device=device)
    rows = [(form, f"{ms:.2f}", f"{took['masked dense'] / ms:.2f}") for form, ms in took.items()]
    shape = f"{crops} crops and an overview of {options.tokens} tokens, D {width}, r {rank}, {options.dtype}"
    command = "python benchmarks/crops.py " + " ".join(sys.argv[1:])
    append("crops", shape, command, table(("form", "forward + backward, ms", "× masked dense"), rows))


if __name__ == "__main__":
    main()
