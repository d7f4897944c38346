"""Times several forms of one computation, and appends the table to a file. Knows no adapters."""

import contextlib
import ctypes
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def medians(forms: Mapping[str, Callable[[], object]], *, rounds: int, device: str) -> dict[str, float]:
    """Measure the median milliseconds of each form.

    Rounds are interleaved, so that other load on the machine affects all forms alike. Every form runs once as a
    warm-up, and on a GPU a buffer larger than the L2 cache is written between runs. On one CPU thread
    (``OMP_NUM_THREADS=1``) processor time is measured, which does not depend on other processes.

    Args:
        forms: name → function that runs the form once.
        rounds: number of runs of each form.
        device: ``cpu`` or ``cuda``.
    """
    keep_memory()
    clock = time.process_time if alone() else time.perf_counter
    flush = torch.empty(2**28, dtype=torch.uint8, device=device) if device == "cuda" else None
    for form in forms.values():
        form()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            if flush is None:
                started = clock()
                form()
                times[name].append(1e3 * (clock() - started))
                continue
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            form()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(runs) for name, runs in times.items()}


def keep_memory() -> None:
    """Make glibc keep freed memory for the process.

    Otherwise most of the difference between two runs comes from returning pages to the system and clearing new ones.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc, trim_threshold, mmap_max = ctypes.CDLL("libc.so.6"), -1, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def alone() -> bool:
    """Return whether everything runs on one CPU thread."""
    return not torch.cuda.is_available() and torch.get_num_threads() == 1


def bandwidth(device: str) -> float:
    """Measure the bytes per second, read and written, of copying a tensor far larger than the caches."""
    source = torch.empty(2**29 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    milliseconds = medians({"copy": lambda: target.copy_(source)}, rounds=7, device=device)["copy"]
    return 2 * source.numel() / (milliseconds / 1e3)


def machine() -> str:
    """Describe the device and the versions of packages."""
    packages = ("torch", "triton", "transformers", "peft", "bitsandbytes")
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    threads = "1 thread, processor time" if alone() else f"{torch.get_num_threads()} threads"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{_processor()}, {threads}"
    return f"{device}; Python {platform.python_version()}, {', '.join(versions)}"


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table in Markdown.

    Args:
        head: names of the columns.
        rows: their cells.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def append(name: str, title: str, command: str, text: str) -> None:
    """Print a table and append it to ``results/NAME.md``, with the device and versions of the measurement.

    Args:
        name: name of the file.
        title: title of the table.
        command: command that repeats the measurement.
        text: the table in Markdown.
    """
    print(f"\n{title}\n\n{text}")
    file = RESULTS / f"{name}.md"
    before = file.read_text(encoding="utf-8") if file.is_file() else f"# {name}\n"
    stamp = time.strftime("%Y-%m-%d")
    file.write_text(f"{before}\n## {title}\n\n{stamp}, `{command}`, {machine()}.\n\n{text}\n", encoding="utf-8")
