"""Memory of a training step (activations, gradients, temporaries): estimated by ``plan``, and measured.

    python benchmarks/plan.py [--batch 8] [--tokens 512] [--rank 8] [--dtype bfloat16]

The model is the LLaVA of about 100 million parameters in ``step.py``, with and without gradient checkpointing. On a
GPU, the peak of its allocator is measured; on a CPU, the peak growth of the process.
"""

import argparse
import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from layer import lora_by_us, mma_by_us
from measure import append, table
from step import make_batch, random_100m

from lora_mm.training.loss import compute_answer_loss
from lora_mm.training.memory import measure_step

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("tokens", 512), ("rank", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    device, dtype = ("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, options.dtype)
    rows = []
    for adapter, make in (("MMA", mma_by_us), ("LoRA on all linear layers", lora_by_us)):
        for checkpointing in (False, True):
            model = make(random_100m(dtype), options.rank)
            batch = make_batch(model, options.batch, options.tokens, "cpu")
            peak = measure_peak(model.to(device), batch, checkpointing=checkpointing)
            usage = measure_step(model.to("meta"), batch, gradient_checkpointing=checkpointing)
            rows.append((adapter, "yes" if checkpointing else "no", f"{usage.peak / MIB:,.0f}", f"{peak / MIB:,.0f}",
                         f"{usage.peak / peak:.2f}"))  # fmt: skip
            del model
            gc.collect()
    title = f"A step's memory: 100m, {options.batch} × {options.tokens} tokens, r {options.rank}, {options.dtype}"
    head = ("adapter", "checkpointing", "estimated, MiB", "measured, MiB", "ratio")
    append("plan", title, "python benchmarks/plan.py " + " ".join(sys.argv[1:]), table(head, rows))


def measure_peak(model: Any, batch: dict[str, torch.Tensor], *, checkpointing: bool) -> int:
    """Measure the peak bytes of a second step, beyond those that stay allocated between steps."""
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for _ in range(2):
        gc.collect()
        before = _reset_peak()
        compute_answer_loss(model.train(), dict(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        peak = _read_peak()
    return peak - before


def _reset_peak() -> int:
    """Start a new peak; return the bytes in use."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    libc, mmap_threshold = ctypes.CDLL("libc.so.6"), -3
    libc.mallopt(mmap_threshold, 2**16)  # freed memory returns to the system at once
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _read_status("VmRSS")


def _read_peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _read_status("VmHWM")


def _read_status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
