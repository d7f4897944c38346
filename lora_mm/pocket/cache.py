"""Where drawn pocket worlds are kept, so that each is drawn once. Knows paths; draws nothing itself."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from lora_mm.errors import LoraMMError
from lora_mm.hub_access import cache_folder


def world_folder(world: str, seed: int, size: int) -> Path:
    """The folder of a world, or of plain rows, of this name, seed and size, drawn now if it is not there.

    Kept under ``$HF_HOME/lora-mm`` (by default ``~/.cache/huggingface/lora-mm``), beside the other data sets.

    Raises:
        LoraMMError: when it cannot be written.
    """
    from lora_mm.pocket.plain import PLAIN_KINDS, make_rows
    from lora_mm.pocket.world import make_world

    home = cache_folder()
    folder = home / f"{world}-{_generator()}-seed{seed}-size{size}"
    if folder.is_dir():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        drawing = Path(tempfile.mkdtemp(prefix=".drawing-", dir=home))
        try:
            if world in PLAIN_KINDS:
                make_rows(drawing / "world", world, seed=seed, size=size)
            else:
                make_world(drawing / "world", world=world, seed=seed, size=size)
            # Two runs at once draw the same world; whichever is first names it, the other uses it.
            if not folder.is_dir():
                os.replace(drawing / "world", folder)
        finally:
            shutil.rmtree(drawing, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():
            return folder
        raise LoraMMError(
            f"{home}: the pocket world cannot be written there ({error.strerror}). "
            "Free some space, or set HF_HOME to a folder that has some."
        ) from error
    return folder


def _generator() -> str:
    """A mark of the code that draws: when it changes, so does the world, and an old drawing must not pass for it."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:8]
