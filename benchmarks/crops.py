"""A frozen linear layer with a LoRA for each crop, forward and backward: grouped products against masked dense ones.

    python benchmarks/crops.py [--width 1664] [--tokens 1024] [--crops 4] [--rank 16] [--dtype float32]

Monkey's tower: rows are the crops of a picture and, last, its overview, which has no LoRA. Masked dense: all LoRAs side
by side, with zeros for those of other crops; in plain PyTorch, and by our operations. Serial: one view after the other,
as Monkey runs them. The layer alone is measured with them, as the same time is in all.
"""

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import append, medians, table
from torch import Tensor

from lora_mm.ops import kernels
from lora_mm.ops.linear import Frozen, adapted_linears
from lora_mm.ops.lowrank import update_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 1664), ("tokens", 1024), ("crops", 4), ("rank", 16), ("rounds", 11)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device, dtype = ("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, options.dtype)
    crops, width, rank = options.crops, options.width, options.rank

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, device=device, dtype=dtype).requires_grad_()

    torch.manual_seed(0)
    x, weight = drawn(crops + 1, options.tokens, width), drawn(width, width).detach()
    down, up = drawn(crops * rank, width), drawn(crops, width, rank)
    index = torch.tensor([*range(crops), -1], device=device)
    mask = F.one_hot(index.clamp(min=0), crops).to(dtype) * (index >= 0).to(dtype)[:, None]

    def alone() -> Tensor:
        return F.linear(x, weight)

    def plain() -> Tensor:
        hidden = F.linear(x, down) * mask.repeat_interleave(rank, dim=1).unsqueeze(1)
        return F.linear(x, weight) + F.linear(hidden, up.transpose(0, 1).reshape(width, -1))

    def serial() -> Tensor:
        parts = [
            F.linear(x[row], weight) + F.linear(F.linear(x[row], down[row * rank : (row + 1) * rank]), up[row])
            for row in range(crops)
        ]
        return torch.stack([*parts, F.linear(x[crops], weight)])

    def masked() -> Tensor:
        return adapted_linears(x, [(Frozen(weight, None), update_of(x, down, up, weights=mask.unsqueeze(1)))])[0]

    def grouped() -> Tensor:
        return adapted_linears(x, [(Frozen(weight, None), update_of(x, down, up, index=index))])[0]

    dy = torch.randn_like(x)

    def step(form: Callable[[], Tensor], choice: kernels.Kernels) -> Callable[[], object]:
        trained = (x,) if form is alone else (x, down, up)

        def run() -> object:
            kernels.choose(choice)
            return torch.autograd.grad(form(), trained, dy)

        return run

    forms = {
        "the layer alone": step(alone, "torch"),
        "masked dense": step(plain, "torch"),
        "serial": step(serial, "torch"),
        "masked dense, ours": step(masked, "torch"),
        "grouped, ours": step(grouped, "torch"),
    }
    if device == "cuda":
        forms["grouped, ours, Triton"] = step(grouped, "triton")
    took = medians(forms, rounds=options.rounds, device=device)
    without, dense = took["the layer alone"], took["masked dense"] - took["the layer alone"]
    rows = [
        (form, f"{ms:.2f}", f"{ms - without:.2f}", f"{dense / (ms - without):.2f}" if ms > without else "–")
        for form, ms in took.items()
    ]
    shape = f"{crops} crops and an overview of {options.tokens} tokens, D {width}, r {rank}, {options.dtype}"
    command = "python benchmarks/crops.py " + " ".join(sys.argv[1:])
    head = ("form", "forward + backward, ms", "above the layer", "× masked dense")
    append("crops", shape, command, table(head, rows))


if __name__ == "__main__":
    main()
