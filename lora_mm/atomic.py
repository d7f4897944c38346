"""Writes files and folders that appear complete or not at all. Does not look at their content."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lora_mm.errors import InputError, LoraMMError


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing ``path``, such as a full disk, into a LoraMMError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise LoraMMError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}.") from error


def check_writable(*files: Path) -> None:
    """Check that files can be written later, before the work that they are to hold; their folders need not exist.

    Raises:
        LoraMMError: some cannot; names all of them.
    """
    faults = []
    for file in files:
        try:
            with explain_write_errors(file):
                if file.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                trial = _find_existing_parent(file) / _name_part(file)
                trial.touch()
                trial.unlink(missing_ok=True)  # all processes of a run try at once
        except LoraMMError as error:
            faults.append(str(error))
    if faults:
        raise LoraMMError("\n".join(faults))


def _find_existing_parent(path: Path) -> Path:
    """Find the folder that ``path`` or its first missing folder goes into; a file if one is in the way."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _name_part(file: Path) -> str:
    """Name a file while it is not complete."""
    return f"{file.name}.part"


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """Make a temporary folder that is renamed to ``output`` at the end of the block. A failure leaves nothing behind.

    Args:
        output: the new folder; must not exist or be empty.

    Yields:
        The folder to write in, beside ``output``.

    Raises:
        InputError: ``output`` exists and is not an empty folder.
        LoraMMError: the folder cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists; name another folder with --output.")
    with explain_write_errors(output):
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=_find_existing_parent(output)))
        try:
            yield temporary
            output.parent.mkdir(parents=True, exist_ok=True)
            temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can open
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file. After a failure, such as a full disk, the old file is unchanged.

    Args:
        path: the file; its folders are created.
        text: its content, written as UTF-8.

    Raises:
        LoraMMError: the file cannot be written.
    """
    temporary = path.with_name(_name_part(path))
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8", errors="replace")
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()  # after a failure; otherwise it has the name of the file
