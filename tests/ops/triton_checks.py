"""Every Triton kernel in Triton's interpreter against the PyTorch form in float64: run as a program, prints JSON.

    TRITON_INTERPRET=1 python -m tests.ops.triton_checks [OLD NEW]

prints case → dtype → quantity → error, as a ratio of norms. A process of its own, because a kernel that writes where it
should not corrupts the heap. With OLD and NEW the kernels' source is changed first: a planted bug. On a CUDA machine
it runs without the interpreter, on shapes of real size (``--large``).
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops import kernels, lowrank, primitive, triton_launch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SMALL = {"rows": 3, "tokens": 23, "width": 76, "out": 44}
LARGE = {"rows": 3, "tokens": 1367, "width": 4096, "out": 2752}


def poisoned(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An output that shows where nothing was written."""
    return torch.full(shape, float("nan"), dtype=dtype or like.dtype, device=like.device)


def plant(old: str, new: str) -> None:
    """Put another text in place of ``old`` in the kernels' source, and run that."""
    source = Path(triton_launch.kernels.__file__).read_text(encoding="utf-8")
    assert old in source, f"nothing to change: {old}"
    file = Path(tempfile.mkdtemp()) / "planted.py"
    file.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("planted", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    triton_launch.kernels = module


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

    def run(t: dict[str, Tensor]) -> Tensor:
        y: Tensor = primitive.residual(
            t["x"], t["norm"], 1e-5, t["down"], t["down_bias"], t["columns"], t["weights"], t["keep"], 0.5, experts, rank
        )[0]
        return y

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
    return tensors, lambda t: lowrank.routed_update(t["base"], t["x"], t["down"], t["up"], weights=t["weights"])


def crops(size: dict[str, int], rank: int = 5):  # type: ignore[no-untyped-def]
    """A LoRA for each crop, and one row that is an overview."""
    lead, experts = (size["rows"] + 1, size["tokens"]), 2
    index = torch.tensor([1, -1, 0, 1])
    tensors = {
        "x": torch.randn(*lead, size["width"]),
        "base": torch.randn(*lead, size["out"]),
        "down": torch.randn(experts * rank, size["width"]) / size["width"] ** 0.5,
        "up": torch.randn(experts, size["out"], rank) / rank**0.5,
        "scales": torch.rand(experts) + 0.5,
    }
    return tensors, lambda t: lowrank.grouped_update(
        t["base"], t["x"], t["down"], t["up"], index=index.to(t["x"].device), scales=t["scales"]
    )


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
    }


def gradients(tensors: dict[str, Any], run: Any, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    own = {
        name: None if tensor is None else tensor.to(device, dtype).requires_grad_(name not in ("norm", "keep"))
        for name, tensor in tensors.items()
    }
    y = run(own)
    torch.manual_seed(1)
    dy = torch.randn(y.shape, dtype=torch.float32).to(device, dtype)
    trained = {name: tensor for name, tensor in own.items() if tensor is not None and tensor.requires_grad}
    grads = torch.autograd.grad(y, [*trained.values()], dy)
    return {"y": y.detach(), **{f"d{name}": grad for name, grad in zip(trained, grads, strict=True)}}


def errors(size: dict[str, int], device: str, dtypes: list[torch.dtype]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for number, case in enumerate(cases(size)):
        for dtype in dtypes:
            torch.manual_seed(number)
            tensors, run = cases(size)[case]
            tensors = {name: None if t is None else t.to(dtype) for name, t in tensors.items()}
            kernels.choose("torch")
            exact = gradients(tensors, run, torch.float64, device)
            kernels.choose("triton")
            ours = gradients(tensors, run, dtype, device)
            found.setdefault(case, {})[str(dtype).removeprefix("torch.")] = {
                name: float((ours[name].double() - ref).norm() / ref.norm()) for name, ref in exact.items()
            }
    return found


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = [word for word in sys.argv[1:] if word != "--large"]
    if words:
        plant(*words)
    triton_launch._new = poisoned
    launched: list[str] = []
    for name in ("expand", "shrink", "outer", "residual", "residual_bwd"):
        launch = getattr(triton_launch, name)
        setattr(triton_launch, name, lambda *a, _l=launch, _n=name: (launched.append(_n), _l(*a))[1])
    found = errors(LARGE if "--large" in sys.argv else SMALL, device, DTYPES[:1] if words else DTYPES)
    print(json.dumps({"errors": found, "launched": sorted(set(launched))}))


if __name__ == "__main__":
    main()
