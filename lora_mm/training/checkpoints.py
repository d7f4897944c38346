"""Checkpoints that are whole or absent: seals them with a manifest, finds the last whole one. Knows no Trainer."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lora_mm.atomic import make_readable
from lora_mm.errors import InputError
from lora_mm.json_text import read_json_file
from lora_mm.validation import explain_validation_error

MANIFEST = "manifest.json"
"""Lists the files of a checkpoint with their hashes, and what the run trains. Written last."""

UNFINISHED = ".unfinished"
"""Folder in which a checkpoint is written before it gets its name."""


class Manifest(BaseModel):
    """The manifest of a checkpoint.

    Attributes:
        facts: what the run trains.
        seconds: how long the run had trained.
        files: relative path → SHA-256, for all files but the manifest.
    """

    facts: dict[str, str]
    seconds: float
    files: dict[str, str]


def seal_checkpoint(folder: Path, target: Path, facts: Mapping[str, str], seconds: float) -> None:
    """Give a complete checkpoint its manifest and its name.

    Args:
        folder: the checkpoint, in the same file system as ``target``.
        target: its new path; a checkpoint that is there is replaced.
        facts: what the run trains, for :func:`find_last_checkpoint`.
        seconds: how long the run has trained.
    """
    manifest = Manifest(facts=dict(facts), seconds=seconds, files=_hash_files(folder))
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
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


def read_manifest(checkpoint: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        InputError: it cannot be read; names the file.
    """
    file = checkpoint / MANIFEST
    try:
        return Manifest.model_validate(read_json_file(file))
    except ValidationError as error:
        raise InputError(*(f"{file}: {fault}" for fault in explain_validation_error(error, Manifest))) from None


def _find_fault(checkpoint: Path, recipe: str) -> str | None:
    """Why a checkpoint cannot be continued from; None if it can."""
    try:
        manifest = read_manifest(checkpoint)
        if manifest.facts.get("recipe") != recipe:
            return "belongs to a run of another recipe"
        present = _hash_files(checkpoint)
    except (InputError, OSError) as error:
        return f"cannot be read: {error}"
    missing = sorted(manifest.files.keys() - present)
    if missing:
        return f"lacks {', '.join(missing)}"
    changed = sorted(name for name, digest in present.items() if manifest.files.get(name) != digest)
    return f"damaged or changed: {', '.join(changed)}" if changed else None


def _hash_files(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of all files of a checkpoint but the manifest."""
    hashes = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST:
            with file.open("rb") as stream:
                hashes[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
