"""Every Triton kernel in Triton's interpreter against the PyTorch form in float64: run as a program, prints JSON.

    TRITON_INTERPRET=1 python -m tests.ops.triton_checks [--planted] [--large]

prints case → dtype → quantity → error, as a ratio of norms. A process of its own, because a kernel that writes where it
should not corrupts the heap. With ``--planted`` it runs each case of :data:`PLANTED` on kernels whose source was
changed: bug → quantity → error. On a CUDA machine it runs without the interpreter; ``--large`` takes
shapes of real size.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops.kernel_choice import Kernels
from lora_mm.ops.linear import FrozenLinear, adapted_linears
from lora_mm.ops.lowrank import make_uniform_update, make_update, routed_update
from lora_mm.ops.nf4 import dequantize_and_merge
from lora_mm.ops.nf4_weight import NestedAbsmax, NF4Weight
from lora_mm.ops.residual import update_residual
from lora_mm.ops.triton import launch as triton_launch
from lora_mm.ops.triton.available import is_interpreted
from lora_mm.ops.update import Norm, Update
from tests.ops.drawn import decoded, drawn_nf4

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SMALL = {"rows": 3, "tokens": 23, "width": 76, "out": 44}
LARGE = {"rows": 3, "tokens": 1367, "width": 4096, "out": 2752}


def poisoned(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An output that shows where nothing was written."""
    return torch.full(shape, float("nan"), dtype=dtype or like.dtype, device=like.device)


PLANTED = {
    "the last block of the width is left out": (
        "residual", "for start in range(0, width, BD):", "for start in range(0, width - BD, BD):"),
    "experts take each other's weights": (
        "residual", "expert = tl.where(j < core, j // rank", "expert = tl.where(j < core, 1 - j // rank"),
    "every token takes the first row's weights": (
        "residual", "(t // tokens)[:, None] * s_row", "(t // total)[:, None] * s_row"),
    "the norm's backward forgets the mean": (
        "residual behind a norm", "x_tile * share[:, None]", "x_tile * 0.0 * share[:, None]"),
    "the mean forgets the adapter's part": (
        "residual behind a norm", "(share * root + tl.sum(g * h_tile, axis=1))", "(share * root)"),
    "dropped units come back": (
        "residual behind a norm, with dropout", "factors *= keep_tile.to(tl.float32)", "factors *= 1.0"),
    "a crop reads its neighbour's expert": (
        "crops", "e = tl.load(index + row).to(tl.int64) if INDEXED", "e = tl.load(index).to(tl.int64) if INDEXED"),
    "a sum over tokens stops short": ("expand", "real = t < end", "real = t < end - 1"),
    "the last token is not written": (
        "expand", "inside = (t < tokens)[:, None]", "inside = (t < tokens - 1)[:, None]"),
    "nibbles are swapped": ("nf4", "position % 2 == 0", "position % 2 == 1"),
    "the second absmax is the first block's": (
        "nf4, double quantisation", "absmax2 + block // BLOCK2", "absmax2 + block * 0"),
}  # fmt: skip
"""Bug → the case that it concerns, a piece of the kernels' source, and what is put in its place."""


def plant(old: str, new: str) -> None:
    """Run kernels whose source has ``new`` in place of ``old``."""
    source = Path(kernels_file()).read_text(encoding="utf-8")
    assert old in source, f"nothing to change: {old}"
    file = Path(tempfile.mkdtemp()) / "planted.py"
    file.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("planted", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    triton_launch.kernels = module


def kernels_file() -> str:
    return str(Path(triton_launch.__file__).with_name("kernels.py"))


def mma(size: dict[str, int], *, norm: bool, stacked: bool = False, by: str = "row", rank: int = 8, keep: bool = False):  # type: ignore[no-untyped-def]
    """The fused residual: MMA's form, and others that it admits."""
    experts, width = 2, size["width"]
    lead = (size["rows"], size["tokens"])
    down_rows = experts * rank if stacked else rank
    weights = {"row": (lead[0], 1, experts), "token": (*lead, experts), "none": None}[by]
    tensors = {
        "x": torch.randn(*lead, width),
        "norm": torch.rand(width) + 0.5 if norm else None,
        "down": torch.randn(down_rows, width) / width**0.5,
        "down_bias": torch.randn(down_rows) / 4,
        "columns": torch.randn(width, experts * rank + experts) / (2 * rank) ** 0.5,
        "weights": None if weights is None else torch.rand(weights),
        "keep": (torch.rand(*lead, down_rows) > 0.2) / 0.8 if keep else None,
    }

    def run(t: dict[str, Tensor], kernels: Kernels) -> Tensor:
        fields = (t["down"], t["columns"], t["down_bias"], t["weights"], t["keep"])
        update = Update(*fields, index=None, scale=0.5, experts=experts, rank=rank, kernels=kernels)
        return update_residual(t["x"], update, None if t["norm"] is None else Norm(t["norm"], 1e-5))

    return tensors, run


def linear(size: dict[str, int], *, rank: int = 8, experts: int = 1, by: str = "none"):  # type: ignore[no-untyped-def]
    """Beside a linear layer."""
    lead = (size["rows"], size["tokens"])
    tensors = {
        "x": torch.randn(*lead, size["width"]),
        "base": torch.randn(*lead, size["out"]),
        "down": torch.randn(experts * rank, size["width"]) / size["width"] ** 0.5,
        "up": torch.randn(experts, size["out"], rank) / (experts * rank) ** 0.5,
        "weights": torch.rand(*lead, experts) if by == "token" else None,
    }

    def run(t: dict[str, Tensor], kernels: Kernels) -> Tensor:
        return routed_update(t["base"], t["x"], t["down"], t["up"], weights=t["weights"], kernels=kernels)

    return tensors, run


def crops(size: dict[str, int], rank: int = 5, *, together: bool = False):  # type: ignore[no-untyped-def]
    """A LoRA for each crop, and one row that is an overview; ``together`` with the frozen layer that it is beside."""
    lead, experts = (size["rows"] + 1, size["tokens"]), 2
    index = torch.tensor([1, -1, 0, 1])
    tensors = {
        "x": torch.randn(*lead, size["width"]),
        "base": torch.randn(*lead, size["out"]),
        "down": torch.randn(experts * rank, size["width"]) / size["width"] ** 0.5,
        "up": torch.randn(experts, size["out"], rank) / rank**0.5,
        "scales": torch.rand(experts) + 0.5,
    }
    if together:
        tensors["frozen"] = torch.randn(size["out"], size["width"]) / size["width"] ** 0.5
        del tensors["base"], tensors["scales"]

    def run(t: dict[str, Tensor], kernels: Kernels) -> Tensor:
        options: Any = {"index": index.to(t["x"].device), "weights": t.get("scales"), "kernels": kernels}
        if together:
            update = make_update(t["x"], t["down"], t["up"], **options)
            return adapted_linears(t["x"], [(FrozenLinear(t["frozen"], None), update)])[0]
        return routed_update(t["base"], t["x"], t["down"], t["up"], **options)

    return tensors, run


def to(weight: NF4Weight, device: str) -> NF4Weight:
    nested = weight.nested
    if nested is not None:
        nested = NestedAbsmax(*(tensor.to(device) for tensor in nested[:3]), nested.blocksize)
    data, absmax = weight.data.to(device), weight.absmax.to(device)
    return NF4Weight(data, absmax, nested, weight.code.to(device), weight.blocksize, weight.shape)


def nf4_errors(size: dict[str, int], device: str) -> dict[str, dict[str, dict[str, float]]]:
    """The merged weight; its rounding apart, which fp32 output shows, down to changes of 1e-6."""
    rows, width, rank = 64 * (size["out"] // 40), size["width"], 21
    found: dict[str, dict[str, dict[str, float]]] = {}
    for nested in (True, False):
        torch.manual_seed(0)
        weight = drawn_nf4(rows, width, nested=nested)
        up, down = torch.randn(rows, rank), torch.randn(rank, width)
        exact = decoded(weight) + 0.5 * up.double() @ down.double()
        case = "nf4, double quantisation" if nested else "nf4"
        for dtype in DTYPES if is_interpreted() else DTYPES[1:]:
            update = make_uniform_update(down.to(device), up.to(device), 0.5, "triton")
            ours = dequantize_and_merge(to(weight, device), update, dtype).cpu().double()
            name = str(dtype).removeprefix("torch.")
            found.setdefault(case, {})[name] = {"w": float((ours - exact).norm() / exact.norm())}
    return found


def cases(size: dict[str, int]) -> dict[str, Any]:
    return {
        "residual": mma(size, norm=False),
        "residual behind a norm": mma(size, norm=True),
        "residual behind a norm, with dropout": mma(size, norm=True, keep=True),
        "residual, experts of their own A, by token": mma(size, norm=True, stacked=True, by="token"),
        "residual, unweighted, wide": mma(size, norm=False, by="none", rank=27),
        "expand": linear(size),
        "expand by token, wide": linear(size, rank=15, experts=4, by="token"),
        "crops": crops(size),
        "crops, with their layer": crops(size, together=True),
    }


def gradients(tensors: dict[str, Any], run: Any, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    own = {
        name: None
        if tensor is None
        else tensor.to(device, dtype).requires_grad_(name not in ("norm", "keep", "frozen"))
        for name, tensor in tensors.items()
    }
    y = run(own)
    torch.manual_seed(1)
    dy = torch.randn(y.shape, dtype=torch.float32).to(device, dtype)
    trained = {name: tensor for name, tensor in own.items() if tensor is not None and tensor.requires_grad}
    grads = torch.autograd.grad(y, [*trained.values()], dy)
    return {"y": y.detach(), **{f"d{name}": grad for name, grad in zip(trained, grads, strict=True)}}


def errors(
    size: dict[str, int], device: str, dtypes: list[torch.dtype], only: str | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for number, case in enumerate(cases(size)):
        if only not in (None, case):
            continue
        for dtype in dtypes:
            torch.manual_seed(number)
            tensors, run = cases(size)[case]
            tensors = {name: None if t is None else t.to(dtype) for name, t in tensors.items()}
            exact = gradients(tensors, lambda t, run=run: run(t, "torch"), torch.float64, device)
            ours = gradients(tensors, lambda t, run=run: run(t, "triton"), dtype, device)
            found.setdefault(case, {})[str(dtype).removeprefix("torch.")] = {
                name: float((ours[name].double() - ref).norm() / ref.norm()) for name, ref in exact.items()
            }
    return found


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = LARGE if "--large" in sys.argv else SMALL
    dtypes = DTYPES if is_interpreted() else DTYPES[1:]
    triton_launch._make_output = poisoned
    if "--planted" in sys.argv:
        found: dict[str, Any] = {}
        for bug, (case, old, new) in PLANTED.items():
            plant(old, new)
            cases_found = nf4_errors(size, device) if "nf4" in case else errors(size, device, dtypes[:1], only=case)
            found[bug] = next(iter(cases_found[case].values()))
        print(json.dumps(found))
        return
    launched: list[str] = []
    for name in ("expand", "shrink", "outer", "residual", "residual_bwd", "nf4_merge"):
        name = f"launch_{name}"
        launch = getattr(triton_launch, name)
        setattr(triton_launch, name, lambda *a, _l=launch, _n=name, **k: (launched.append(_n), _l(*a, **k))[1])
    every = errors(size, device, dtypes) | nf4_errors(size, device)
    print(json.dumps({"errors": every, "launched": sorted(set(launched))}))


if __name__ == "__main__":
    main()
