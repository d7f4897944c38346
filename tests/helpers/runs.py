"""Whole runs in tests: consoles to read, and the contents of their folders."""

import io
import shutil
from pathlib import Path

from rich.console import Console


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def printed(output: Console) -> str:
    assert isinstance(output.file, io.StringIO)
    return output.file.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def stopped_at(checkpoint: int, finished: Path, folder: Path) -> Path:
    """A copy of a finished run as it was after ``checkpoint``."""
    shutil.copytree(finished, folder)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.rpartition("-")[2]) > checkpoint:
            shutil.rmtree(path)
    for name in (
        "adapter_model.safetensors",
        "adapter_config.json",
        "scores.json",
        "README.md",
        "predictions-adapter.json",
    ):
        (folder / name).unlink()
    return folder
