"""Files and folders that are there whole, or not at all. Knows nothing of what is in them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lora_mm.errors import InputError, LoraMMError


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A folder to write in, beside ``output``, that becomes it at the end; after any failure nothing is left of it.

    Raises:
        InputError: when ``output`` exists and is not an empty folder; LoraMMError when it cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists; name another folder with --output.")
    beside = next(parent for parent in output.absolute().parents if parent.is_dir())
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=beside))
        yield folder
        output.parent.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # mkdtemp lets nobody else in
        folder.rename(output)
    except (OSError, SafetensorError) as error:
        raise LoraMMError(f"{output}: cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is afterwards whole, or as it was before; folders above it are made.

    Raises:
        LoraMMError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")  # a full disk leaves the old file as it was
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise LoraMMError(f"{path}: cannot be written: {error.strerror or error}.") from error
