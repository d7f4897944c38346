"""A cache of drawn pocket data, so that each data set is drawn once. Knows folders; draws nothing itself."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from lora_mm.errors import LoraMMError
from lora_mm.hub_access import cache_folder

DRAWING_MODULES = (
    "drawing", "own_data", "pair_scenes", "picture_questions", "problem", "scenes", "tables", "templates",
    "text_questions", "world",
)  # fmt: skip
"""The modules that decide what is drawn, and so the key of the cache."""


def prepare_pocket_data(name: str, seed: int, size: int) -> Path:
    """Draw a pocket data set, unless the cache has it.

    The cache is ``$HF_HOME/lora-mm``, by default ``~/.cache/huggingface/lora-mm``.

    Args:
        name: name of a world or of a data set in the formats of your own data.
        seed: seed of the drawing.
        size: number of problems or rows.

    Returns:
        The folder of the data set.

    Raises:
        LoraMMError: when the cache cannot be written.
    """
    from lora_mm.pocket.own_data import OWN_DATA_SETS, make_own_data
    from lora_mm.pocket.world import make_world

    cache = cache_folder()
    folder = cache / f"{name}-{hash_drawing_code()}-seed{seed}-size{size}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        drawing = Path(tempfile.mkdtemp(prefix=".drawing-", dir=cache))
        try:
            if name in OWN_DATA_SETS:
                make_own_data(drawing / "data", name, seed=seed, size=size)
            else:
                make_world(drawing / "data", name=name, seed=seed, size=size)
            # Two runs can draw the same data at the same time: the first one names it, the other uses it.
            if not folder.is_dir():
                os.replace(drawing / "data", folder)
        finally:
            shutil.rmtree(drawing, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():
            return folder
        raise LoraMMError(
            f"{cache}: pocket data cannot be written ({error.strerror}). "
            "Free some space, or set HF_HOME to a folder with free space."
        ) from error
    return folder


def hash_drawing_code(package: Path = Path(__file__).parent) -> str:
    """A hash of the code that draws: when the code changes, cached drawings are no longer used.

    Args:
        package: folder of the modules in :data:`DRAWING_MODULES`.
    """
    sources = (package / f"{name}.py" for name in DRAWING_MODULES)
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:8]
