"""An adapter on a block's input, forward and backward: our operation against other forms of the same formula.

    python benchmarks/primitive.py [--width 4096 …] [--tokens 2048 …] [--experts 2 …] [--rank 8 …] [--dtype float32 …]

Forms: LaVIN's (1×1 convolutions, one expert after the other), a loop over experts, the fold in plain PyTorch (two
products with autograd), the fold with torch.compile, ours in PyTorch and, on a GPU, ours in Triton. The lower bound is
2 passes forward and 4 backward, each over T · D · size bytes, at the measured copy bandwidth.
"""

import argparse
import itertools
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import append, bandwidth, medians, table
from torch import Tensor

from lora_mm.ops.lowrank import routed_update, stack_up

Form = Callable[[Tensor, dict[str, Tensor]], Tensor]


def lavin(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    """1×1 convolutions on [batch, D, tokens], grouped in two on the way up; one expert after the other."""
    hidden = F.conv1d(x.transpose(1, 2), p["down"].unsqueeze(-1), p["down_bias"])
    for expert, (up, bias) in enumerate(zip(p["up"], p["up_bias"], strict=True)):
        part = F.conv1d(hidden, up.unsqueeze(-1), bias, groups=2).transpose(1, 2)
        x = x + p["weights"][..., expert : expert + 1] * part
    return x


def loop(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    """One dense product up for each expert."""
    hidden = F.linear(x, p["down"], p["down_bias"])
    for expert, (up, bias) in enumerate(zip(p["up"], p["up_bias"], strict=True)):
        x = x + p["weights"][..., expert : expert + 1] * F.linear(hidden, stack_up(up.unsqueeze(0), 2), bias)
    return x


def fold(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Two products with the weights between them, differentiated by autograd."""
    hidden = F.linear(x, p["down"], p["down_bias"]).unsqueeze(-2)
    z = (hidden * p["weights"].unsqueeze(-1)).flatten(-2)
    z = torch.cat([z, p["weights"].expand(*z.shape[:-1], -1)], dim=-1)
    columns = torch.cat([stack_up(p["up"], 2), p["up_bias"].t()], dim=-1)
    return torch.addmm(x.flatten(0, -2), z.flatten(0, -2), columns.t()).view_as(x)


def ours(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return routed_update(x, x, **p, groups=2, kernels="torch")


def ours_in_triton(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return routed_update(x, x, **p, groups=2, kernels="triton")


def make_step(form: Form, x: Tensor, p: dict[str, Tensor], dy: Tensor, *, backward: bool) -> Callable[[], object]:
    leaves = [x, *p.values()]

    def run() -> object:
        if not backward:
            with torch.no_grad():
                return form(x, p)
        return torch.autograd.grad(form(x, p), leaves, dy)

    return run


def draw(
    width: int, tokens: int, experts: int, rank: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    p = {
        "down": torch.randn(rank, width) / width**0.5,
        "up": torch.randn(experts, width, rank // 2) / rank**0.5,
        "down_bias": torch.randn(rank),
        "up_bias": torch.randn(experts, width),
        "weights": torch.rand(4, 1, experts),
    }
    p = {name: tensor.to(device, dtype).requires_grad_() for name, tensor in p.items()}
    return torch.randn(4, tokens // 4, width, device=device, dtype=dtype).requires_grad_(), p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", [4096]), ("tokens", [2048]), ("experts", [2]), ("rank", [8])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--no-compile", action="store_true", help="do not measure torch.compile")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    forms: dict[str, Form] = {"LaVIN's form": lavin, "loop": loop, "fold": fold}
    if not options.no_compile:
        forms["fold, compiled"] = torch.compile(fold, dynamic=False)
        torch._dynamo.config.cache_size_limit = 1000
    forms["ours"] = ours
    if device == "cuda":
        forms["ours, Triton"] = ours_in_triton
    copied = bandwidth(device)
    rows = []
    sizes = itertools.product(options.width, options.tokens, options.experts, options.rank, options.dtype)
    for width, tokens, experts, rank, name in sizes:
        dtype = getattr(torch, name)
        x, p = draw(width, tokens, experts, rank, dtype, device)
        dy = torch.randn_like(x)
        one_pass = x.numel() * x.element_size() / copied * 1e3
        forward = medians(
            {f: make_step(u, x, p, dy, backward=False) for f, u in forms.items()}, rounds=options.rounds, device=device
        )
        both = medians(
            {f: make_step(u, x, p, dy, backward=True) for f, u in forms.items()}, rounds=options.rounds, device=device
        )
        for form in forms:
            back = both[form] - forward[form]
            rows.append((
                width, tokens, experts, rank, name, form, f"{forward[form]:.3f}", f"{both[form]:.3f}",
                f"{both['LaVIN' + chr(39) + 's form'] / both[form]:.2f}", f"{2 * one_pass / forward[form]:.0%}",
                f"{4 * one_pass / back:.0%}" if back > 0 else "–",
            ))  # fmt: skip
    head = ("D", "T", "E", "r", "dtype", "form", "forward, ms", "both, ms", "× LaVIN's", "of 2 passes", "of 4 passes")
    title = f"The primitive; a copy moves {copied / 1e9:.1f} GB/s"
    append("primitive", title, "python benchmarks/primitive.py " + " ".join(sys.argv[1:]), table(head, rows))


if __name__ == "__main__":
    main()
