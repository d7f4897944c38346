"""An NF4 weight's dequantisation with a low-rank change merged in: what it costs, alone and against bitsandbytes; and
a whole product, forward and backward, with the change merged or added in place.

    python benchmarks/nf4.py [--rows 4096] [--width 4096] [--rank 16] [--tokens 512 2048 8192 16384]

Without bitsandbytes only our kernel runs, on a weight drawn bit by bit (on a GPU).
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable

import torch
from measure import append, medians, table
from torch import Tensor

from lora_mm.ops import dispatch as kernels
from lora_mm.ops import nf4
from lora_mm.ops.linear import Frozen, adapted_linears
from lora_mm.ops.lowrank import uniform
from lora_mm.ops.nf4 import Packed, merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 4096), ("width", 4096), ("rank", 16), ("rounds", 11)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 8192, 16384])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, width, rank = options.rows, options.width, options.rank
    torch.manual_seed(0)
    blocks = rows * width // 64
    nested = (torch.rand(256), torch.rand(-(-blocks // 256)), torch.tensor(0.5), 256)
    weight = Packed(
        torch.randint(0, 256, (rows * width // 2, 1), dtype=torch.uint8, device=device),
        torch.randint(0, 256, (blocks,), dtype=torch.uint8, device=device),
        (*(t.to(device) for t in nested[:3]), 256),
        torch.linspace(-1, 1, 16, device=device),
        64,
        (rows, width),
    )
    up, down = torch.randn(rows, rank, device=device), torch.randn(rank, width, device=device)
    forms: dict[str, Callable[[], object]] = {}
    if device == "cuda":
        forms["Triton, merged"] = form("triton", weight, up, down)
    if importlib.util.find_spec("bitsandbytes"):
        forms |= {"bitsandbytes, alone": bitsandbytes_alone(weight), "PyTorch, merged": form("torch", weight, up, down)}
    else:
        print("bitsandbytes is not installed: its dequantisation is left out.")
    if not forms:
        return
    took = medians(forms, rounds=options.rounds, device=device)
    moved = rows * width * (0.5 + 1 / 64 + 2)
    cells = [(name, f"{ms:.3f}", f"{moved / ms / 1e6:.0f}") for name, ms in took.items()]
    title = f"NF4 {rows} × {width} to bfloat16, double quantisation, r {rank}"
    command = "python benchmarks/nf4.py " + " ".join(sys.argv[1:])
    append("nf4", title, command, table(("form", "ms", "GB/s, of bytes in and out"), cells))
    if importlib.util.find_spec("bitsandbytes"):
        products(weight, options, device, command)


def products(weight: Packed, options: argparse.Namespace, device: str, command: str) -> None:
    """The change merged and added in place, over tokens: where one overtakes the other."""
    rows, width = weight.shape
    down = (torch.randn(options.rank, width, device=device) / width**0.5).requires_grad_()
    up = torch.randn(rows, options.rank, device=device).requires_grad_()
    lines = []
    for tokens in options.tokens:
        x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16).requires_grad_()
        dy = torch.randn(tokens, rows, device=device, dtype=torch.bfloat16)

        def product(merging: bool, x: Tensor = x, dy: Tensor = dy) -> Callable[[], object]:
            def run() -> object:
                kernels.choose("triton" if merging and device == "cuda" else "torch")
                nf4.MERGED_FROM = 0 if merging else sys.maxsize
                (y,) = adapted_linears(x, [(Frozen(weight, None), uniform(down, up, 0.5))])
                return torch.autograd.grad(y, (x, down, up), dy)

            return run

        forms = {"merged": product(True), "in place": product(False)}
        took = medians(forms, rounds=5, device=device)
        lines.append((tokens, *(f"{ms:.1f}" for ms in took.values()), f"{took['merged'] / took['in place']:.2f}"))
    title = f"A product with an NF4 weight {rows} × {width}, r {options.rank}, forward and backward, bfloat16"
    append("nf4", title, command, table(("tokens", "merged, ms", "in place, ms", "ratio"), lines))


def form(choice: kernels.Kernels, weight: Packed, up: torch.Tensor, down: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        kernels.choose(choice)
        return merged(weight, up, down, 0.5, torch.bfloat16)

    return run


def bitsandbytes_alone(weight: Packed) -> Callable[[], object]:
    import bitsandbytes  # noqa: F401  # registers its ops

    assert weight.nested is not None
    code, largest, offset, size = weight.nested
    ops = torch.ops.bitsandbytes

    def run() -> object:
        absmax = ops.dequantize_blockwise(weight.absmax, largest, code, size, torch.float32) + offset
        return ops.dequantize_4bit(weight.data, absmax, weight.blocksize, "nf4", weight.shape, torch.bfloat16)

    return run


if __name__ == "__main__":
    main()
