"""Writes files and folders that appear complete or not at all. Does not look at their content.

What is not complete yet has a name with :data:`PREFIX` beside its place. A run that is killed leaves it there, and the
next one that writes there a day later removes it.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from lora_mm.errors import InputError, LoraMMError

PREFIX = ".lora-mm-"
"""Begin of the names of files and folders that are being written."""

_LEFTOVER = re.compile(re.escape(PREFIX) + "[0-9a-f]{16}")
_LEFTOVER_SECONDS = 24 * 60 * 60


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
                trial = _choose_temporary(_find_existing_parent(file))
                trial.touch()
                trial.unlink()
        except LoraMMError as error:
            faults.append(str(error))
    if faults:
        raise LoraMMError("\n".join(faults))


def _find_existing_parent(path: Path) -> Path:
    """Find the folder that ``path`` or its first missing folder goes into; a file if one is in the way."""
    return next(parent for parent in path.absolute().parents if parent.exists())


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
        temporary = _choose_temporary(_find_existing_parent(output))
        temporary.mkdir()
        try:
            yield temporary
            output.parent.mkdir(parents=True, exist_ok=True)
            make_readable(temporary)
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to ``path`` at the end of the block. A failure leaves ``path`` unchanged.

    Args:
        path: the file; its folders are created.

    Yields:
        The file to write in, beside ``path``. It is new: no link that lies there is followed.

    Raises:
        LoraMMError: the file cannot be written.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _choose_temporary(path.parent)
        try:
            with temporary.open("xb") as stream:
                yield stream
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()  # after a failure; otherwise it has the name of the file


def write_atomically(path: Path, text: str) -> None:
    """Write a text file. After a failure, such as a full disk, the old file is unchanged.

    Args:
        path: the file; its folders are created.
        text: its content, written as UTF-8.

    Raises:
        LoraMMError: the file cannot be written.
    """
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8", errors="replace"))


@contextmanager
def write_in_order(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Make a temporary folder whose files are moved to ``folder`` at the end of the block. A failure changes nothing.

    Args:
        folder: where the files go; created if it does not exist.
        names: the files, in the order in which they are moved: where the last one is, all are whole.

    Yields:
        The folder to write in, inside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _choose_temporary(folder)
    temporary.mkdir()
    try:
        yield temporary
        make_readable(temporary)
        for name in names:
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Give the files in ``folder`` the permissions of new files. Only their owner can read those of safetensors."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def remove_leftovers(folder: Path, idle_seconds: float = _LEFTOVER_SECONDS) -> list[Path]:
    """Remove what killed runs left in ``folder``: files and folders with :data:`PREFIX`.

    Args:
        folder: the folder in which something was written; deeper folders are not searched.
        idle_seconds: how old they must be; 0 if no other process can be writing in ``folder``.

    Returns:
        What was removed.
    """
    removed = []
    for path in sorted(folder.glob(f"{PREFIX}*")):
        if _LEFTOVER.fullmatch(path.name) and _count_idle_seconds(path) >= idle_seconds:
            with contextlib.suppress(OSError):  # somebody else's, or removed meanwhile
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
                removed.append(path)
    return removed


def _count_idle_seconds(path: Path) -> float:
    """Seconds since a change of ``path`` or of anything in it; 0 for what disappears meanwhile."""
    try:
        changes = [item.lstat().st_mtime for item in (path, *path.rglob("*"))]
    except OSError:
        return 0.0
    return time.time() - max(changes)


def _choose_temporary(folder: Path) -> Path:
    """Choose a name in ``folder`` that nobody can guess, and tidy up there."""
    remove_leftovers(folder)
    return folder / f"{PREFIX}{secrets.token_hex(8)}"
