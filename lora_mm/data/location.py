"""Locates the rows of a recipe and tells ScienceQA from the user's own data. Reads no rows."""

from lora_mm.data.scienceqa_tables import is_scienceqa
from lora_mm.errors import InputError
from lora_mm.pocket.cache import prepare_pocket_data
from lora_mm.pocket.own_data import OWN_DATA_SETS
from lora_mm.pocket.world import WORLDS
from lora_mm.recipe.data_section import DataSection

_KEYS_OF_OWN_DATA = (
    "columns",
    "image_root",
    "question",
    "response",
    "answer",
    "eval_path",
    "cap",
    "select",
    "streaming",
    "eval_share",
)
"""Keys of ``data`` that have no effect on ScienceQA problems."""


def is_own_data(section: DataSection) -> bool:
    """Whether the rows are the user's own, not ScienceQA's.

    Raises:
        InputError: the rows are ScienceQA's, and the recipe sets keys that have no effect on them.
    """
    if not _is_scienceqa(section):
        return True
    fields = type(section).model_fields
    faults = [
        f"data.{name}: has no effect on ScienceQA problems; remove it."
        for name in _KEYS_OF_OWN_DATA
        if getattr(section, name) != fields[name].default
    ]
    if faults:
        raise InputError(*faults)
    return False


def _is_scienceqa(section: DataSection) -> bool:
    if section.path is None or section.layout not in ("auto", "scienceqa"):
        return False
    if section.layout == "scienceqa" or section.path in WORLDS:
        return True
    return not section.streaming and is_scienceqa(section.path, section.train_split)


def get_scienceqa_path(section: DataSection) -> str:
    """Return the path or Hub id of the ScienceQA problems."""
    return locate_path(section, str(section.path))


def locate_path(section: DataSection, path: str) -> str:
    """Resolve the name of a pocket data set to its folder, and draw it if needed; return other paths as given.

    Args:
        section: its ``pocket`` section has the size and the seed.
        path: a path, a Hub id, or the name of a pocket data set.
    """
    if path in WORLDS or path in OWN_DATA_SETS:
        return str(prepare_pocket_data(path, section.pocket.seed, section.pocket.size))
    return path
