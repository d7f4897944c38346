"""Where the rows of a recipe are, and whether they are ScienceQA's or the user's own. Reads no rows."""

from lora_mm.data.scienceqa_tables import is_scienceqa
from lora_mm.errors import InputError
from lora_mm.pocket.cache import world_folder
from lora_mm.pocket.plain import PLAIN_KINDS
from lora_mm.pocket.world import WORLDS
from lora_mm.recipe.data_section import DataSection

_KEYS_OF_OWN_DATA = (
    "columns",
    "image_root",
    "question",
    "response",
    "eval_path",
    "cap",
    "select",
    "streaming",
    "eval_share",
)
"""Keys of ``data`` that have no effect on ScienceQA problems."""


def is_own_data(section: DataSection) -> bool:
    """Whether the rows are the user's own, and not ScienceQA's.

    Raises:
        InputError: the rows are ScienceQA's, and the recipe sets keys that have no effect on those.
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
    """Where ScienceQA's problems are."""
    return resolve_path(section, str(section.path))


def resolve_path(section: DataSection, path: str) -> str:
    """Where the rows of a path are: a pocket data set is drawn now, if it was not before; any other path is as given.

    Args:
        section: says how much to draw, and by which seed.
        path: a path, an id on the Hub, or the name of a pocket data set.
    """
    if path in WORLDS or path in PLAIN_KINDS:
        return str(world_folder(path, section.pocket.seed, section.pocket.size))
    return path
