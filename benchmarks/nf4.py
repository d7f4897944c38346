"""Dequantizing an NF4 weight, with and without a low-rank update merged in, by our kernel and by bitsandbytes; and a
whole product, forward and backward, with the update merged or added in place.

    python benchmarks/nf4.py [--rows 4096] [--width 4096] [--rank 16] [--tokens 512 2048 8192 16384]

Without bitsandbytes, only our kernel is measured, on a GPU. The weight is random.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable

import torch
from measure import append, medians, table
from torch import Tensor

from lora_mm.ops import nf4
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.linear import FrozenLinear, adapted_linears
from lora_mm.ops.lowrank import make_uniform_update
from lora_mm.ops.nf4 import dequantize_and_merge
from lora_mm.ops.nf4_weight import NestedAbsmax, NF4Weight


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
    nested = (torch.rand(256), torch.rand(-(-blocks // 256)), torch.tensor(0.5))
    weight = NF4Weight(
        torch.randint(0, 256, (rows * width // 2, 1), dtype=torch.uint8, device=device),
        torch.randint(0, 256, (blocks,), dtype=torch.uint8, device=device),
        NestedAbsmax(*(tensor.to(device) for tensor in nested), blocksize=256),
        torch.linspace(-1, 1, 16, device=device),
        64,
        (rows, width),
    )
    up, down = torch.randn(rows, rank, device=device), torch.randn(rank, width, device=device)
    forms: dict[str, Callable[[], object]] = {}
    if device == "cuda":
        forms["Triton, merged"] = make_form("triton", weight, up, down)
    if importlib.util.find_spec("bitsandbytes"):
        forms["bitsandbytes, alone"] = make_bitsandbytes_form(weight)
        forms["PyTorch, merged"] = make_form("torch", weight, up, down)
    else:
        print("bitsandbytes is not installed: its dequantization is not measured.")
    if not forms:
        return
    times = medians(forms, rounds=options.rounds, device=device)
    moved = rows * width * (0.5 + 1 / 64 + 2)
    cells = [(name, f"{ms:.3f}", f"{moved / ms / 1e6:.0f}") for name, ms in times.items()]
    title = f"NF4 {rows} × {width} to bfloat16, double quantization, r {rank}"
    command = "python benchmarks/nf4.py " + " ".join(sys.argv[1:])
    append("nf4", title, command, table(("form", "ms", "GB/s, of bytes in and out"), cells))
    if importlib.util.find_spec("bitsandbytes"):
        measure_products(weight, options, device, command)


def measure_products(weight: NF4Weight, options: argparse.Namespace, device: str, command: str) -> None:
    """Time the update merged and added in place for several numbers of tokens, to find where merging is faster."""
    rows, width = weight.shape
    down = (torch.randn(options.rank, width, device=device) / width**0.5).requires_grad_()
    up = torch.randn(rows, options.rank, device=device).requires_grad_()
    lines = []
    for tokens in options.tokens:
        x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16).requires_grad_()
        dy = torch.randn(tokens, rows, device=device, dtype=torch.bfloat16)

        def product(merging: bool, x: Tensor = x, dy: Tensor = dy) -> Callable[[], object]:
            def run() -> object:
                nf4.MERGED_FROM = 0 if merging else sys.maxsize
                kernels: Kernels = "triton" if merging and device == "cuda" else "torch"
                update = make_uniform_update(down, up, 0.5, kernels)
                (y,) = adapted_linears(x, [(FrozenLinear(weight, None), update)])
                return torch.autograd.grad(y, (x, down, up), dy)

            return run

        forms = {"merged": product(True), "in place": product(False)}
        times = medians(forms, rounds=5, device=device)
        lines.append((tokens, *(f"{ms:.1f}" for ms in times.values()), f"{times['merged'] / times['in place']:.2f}"))
    title = f"A product with an NF4 weight {rows} × {width}, r {options.rank}, forward and backward, bfloat16"
    append("nf4", title, command, table(("tokens", "merged, ms", "in place, ms", "ratio"), lines))


def make_form(kernels: Kernels, weight: NF4Weight, up: Tensor, down: Tensor) -> Callable[[], object]:
    update = make_uniform_update(down, up, 0.5, kernels)
    return lambda: dequantize_and_merge(weight, update, torch.bfloat16)


def make_bitsandbytes_form(weight: NF4Weight) -> Callable[[], object]:
    import bitsandbytes  # noqa: F401  # registers its ops

    assert weight.nested is not None
    nested = weight.nested
    ops = torch.ops.bitsandbytes

    def run() -> object:
        absmax = ops.dequantize_blockwise(weight.absmax, nested.absmax, nested.code, nested.blocksize, torch.float32)
        absmax = absmax + nested.offset
        return ops.dequantize_4bit(weight.data, absmax, weight.blocksize, "nf4", weight.shape, torch.bfloat16)

    return run


if __name__ == "__main__":
    main()
