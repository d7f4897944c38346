"""A frozen linear layer with a LoRA for each crop, forward and backward: grouped products against masked dense ones.

    python benchmarks/crops.py [--width 1664] [--tokens 1024] [--crops 4] [--pictures 1] [--rank 16] [--dtype float32]

As in Monkey's tower, rows are the crops of a picture and then its overview, which has no LoRA. Forms: masked dense (all
LoRAs side by side, multiplied by zero for other crops; in plain PyTorch and with our operations), serial (one view
after the other, as in Monkey) and grouped (the default; on a CPU also with overviews skipped, and multiplied by zero).
The layer without LoRA is measured too, because every form includes it.
"""

import argparse
import math
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import append, medians, table
from torch import Tensor

from lora_mm.ops import products
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.linear import FrozenLinear, adapted_linears
from lora_mm.ops.lowrank import make_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("width", 1664), ("tokens", 1024), ("crops", 4), ("pictures", 1), ("rank", 16), ("rounds", 11))
    for size, default in sizes:
        parser.add_argument(f"--{size}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    name, device = options.dtype, "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, name)
    crops, width, rank, pictures = options.crops, options.width, options.rank, options.pictures

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, device=device, dtype=dtype).requires_grad_()

    torch.manual_seed(0)
    x, weight = draw(pictures * (crops + 1), options.tokens, width), draw(width, width).detach()
    down, up = draw(crops * rank, width), draw(crops, width, rank)
    index = torch.tensor([*range(crops), -1] * pictures, device=device)
    mask = F.one_hot(index.clamp(min=0), crops).to(dtype) * (index >= 0).to(dtype)[:, None]

    def alone() -> Tensor:
        return F.linear(x, weight)

    def plain() -> Tensor:
        hidden = F.linear(x, down) * mask.repeat_interleave(rank, dim=1).unsqueeze(1)
        return F.linear(x, weight) + F.linear(hidden, up.transpose(0, 1).reshape(width, -1))

    def serial() -> Tensor:
        views = []
        for view, crop in zip(x, index.tolist(), strict=True):
            y = F.linear(view, weight)
            rows = slice(crop * rank, (crop + 1) * rank)
            views.append(y if crop < 0 else y + F.linear(F.linear(view, down[rows]), up[crop]))
        return torch.stack(views)

    def masked() -> Tensor:
        update = make_update(x, down, up, weights=mask.unsqueeze(1), kernels="torch")
        return adapted_linears(x, [(FrozenLinear(weight, None), update)])[0]

    def grouped(kernels: Kernels = "torch") -> Tensor:
        update = make_update(x, down, up, index=index, kernels=kernels)
        return adapted_linears(x, [(FrozenLinear(weight, None), update)])[0]

    dy = torch.randn_like(x)

    def step(form: Callable[[], Tensor], large: float = products.LARGE) -> Callable[[], object]:
        trained = (x,) if form is alone else (x, down, up)

        def run() -> object:
            products.LARGE = large  # type: ignore[assignment]
            return torch.autograd.grad(form(), trained, dy)

        return run

    forms = {
        "the layer alone": step(alone),
        "masked dense": step(plain),
        "serial": step(serial),
        "masked dense, ours": step(masked),
        "grouped, ours": step(grouped),
    }
    if device == "cuda":
        forms["grouped, ours, Triton"] = step(lambda: grouped("triton"))
    else:
        forms["grouped, skipped"] = step(grouped, large=0)
        forms["grouped, times zero"] = step(grouped, large=math.inf)
    times = medians(forms, rounds=options.rounds, device=device)
    layer, dense = times["the layer alone"], times["masked dense"] - times["the layer alone"]
    rows = [
        (form, f"{ms:.2f}", f"{ms - layer:.2f}", f"{dense / (ms - layer):.2f}" if ms > layer else "–")
        for form, ms in times.items()
    ]
    shape = (
        f"{pictures} × {crops} crops and an overview of {options.tokens} tokens, D {width}, r {rank}, {options.dtype}"
    )
    command = "python benchmarks/crops.py " + " ".join(sys.argv[1:])
    head = ("form", "forward + backward, ms", "above the layer", "× masked dense")
    append("crops", shape, command, table(head, rows))


if __name__ == "__main__":
    main()
