"""Checkpoints that are whole or absent: seals them with a manifest, finds the last whole one. Knows no Trainer."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_mm.atomic import make_readable
from lora_mm.errors import InputError
from lora_mm.json_text import read_json_file

MANIFEST = "manifest.json"
"""Lists the files of a checkpoint with their hashes, and what the run trains. Written last."""

UNFINISHED = ".unfinished"
"""Folder in which a checkpoint is written before it gets its name."""


def seal_checkpoint(folder: Path, target: Path, facts: Mapping[str, str], seconds: float) -> None:
    """Give a complete checkpoint its manifest and its name.

    Args:
        folder: the checkpoint, in the same file system as ``target``.
        target: its new path; a checkpoint that is there is replaced.
        facts: what the run trains, for :func:`find_last_checkpoint` and :func:`read_facts`.
        seconds: how long the run has trained.
    """
    manifest = {"facts": dict(facts), "seconds": seconds, "files": _hash_files(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    make_readable(folder)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)


def find_last_checkpoint(folder: Path, recipe: str) -> tuple[Path | None, list[str]]:
    """Find the latest whole checkpoint of a run.

    Args:
        folder: the folder of the run's checkpoints.
        recipe: the fact ``recipe`` of the run's checkpoints.

    Returns:
        The checkpoint, None if there is none, and a line for each later one that cannot be used.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    faults: list[str] = []
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = _find_fault(checkpoint, recipe)
        if fault is None:
            return checkpoint, faults
        faults.append(f"{checkpoint}: {fault}")
    return None, faults


def read_facts(checkpoint: Path) -> dict[str, str]:
    """Read what the run of a whole checkpoint trains."""
    facts: dict[str, str] = _read_manifest(checkpoint)["facts"]
    return facts


def read_seconds(checkpoint: Path) -> float:
    """Read how long the run of a whole checkpoint had trained."""
    return float(_read_manifest(checkpoint)["seconds"])


def _find_fault(checkpoint: Path, recipe: str) -> str | None:
    """Why a checkpoint cannot be continued from; None if it can."""
    try:
        manifest = _read_manifest(checkpoint)
        files, facts, _ = manifest["files"], manifest["facts"], float(manifest["seconds"])
        if facts["recipe"] != recipe:
            return "belongs to a run of another recipe"
        present = _hash_files(checkpoint)
    except (InputError, OSError, KeyError, TypeError, ValueError) as error:
        return f"cannot be read: {error}"
    missing = sorted(files.keys() - present)
    if missing:
        return f"lacks {', '.join(missing)}"
    changed = sorted(name for name, digest in present.items() if files.get(name) != digest)
    return f"damaged or changed: {', '.join(changed)}" if changed else None


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json_file(checkpoint / MANIFEST)
    return manifest


def _hash_files(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of all files of a checkpoint but the manifest."""
    hashes = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST:
            with file.open("rb") as stream:
                hashes[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
