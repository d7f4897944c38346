"""Loads the splits of a recipe's data, checked and without overlap. Knows no model."""

import numpy as np

from lora_mm.data import scienceqa
from lora_mm.data.data_split import DataSplit, check_disjoint
from lora_mm.data.location import get_scienceqa_path, is_own_data, locate_path
from lora_mm.data.own_data import load_own_split
from lora_mm.data.rows import find_rows
from lora_mm.data.survey import hash_content
from lora_mm.errors import InputError, truncate_faults
from lora_mm.hub_access import UnreachableError
from lora_mm.recipe.data_section import DataSection
from lora_mm.recipe.sections import Recipe


def load_split(recipe: Recipe, split: str, limit: int | None = None) -> DataSplit:
    """Load the examples of one split. Every row is read and every picture is opened once.

    Args:
        recipe: its ``data`` section says where the data is and how to read it.
        split: name of the split. If the data is not divided into splits, ``data.train_split`` names the training rows
            and ``data.eval_split`` the evaluation rows.
        limit: maximum number of examples, from the first; None for all.

    Raises:
        InputError: all faults of the data, each with its row.
    """
    if is_own_data(recipe.data):
        return load_own_split(recipe.data, split, limit)
    return _load_scienceqa_split(recipe.data, split, limit)


def _load_scienceqa_split(section: DataSection, split: str, limit: int | None) -> DataSplit:
    loaded = scienceqa.load_problems(
        get_scienceqa_path(section), split, missing_images=section.missing_images, limit=limit
    )
    faults = scienceqa.check_images(loaded.problems)
    if faults:
        raise InputError(*truncate_faults(faults))
    examples = [scienceqa.to_example(p, format=section.format, caption=section.captions) for p in loaded.problems]
    hashes = np.array([hash_content(problem.id.encode()) for problem in loaded.problems], dtype=np.uint64)
    return DataSplit(split, examples, (loaded.account(),), hashes, loaded.problems)


def load_train_and_test(recipe: Recipe) -> tuple[DataSplit, DataSplit]:
    """Load the training examples and the evaluation examples; no example is in both.

    Raises:
        InputError: all faults of both splits.
    """
    section = recipe.data
    loaded: list[DataSplit] = []
    faults: list[str] = []
    for split, limit in ((section.train_split, section.train_limit), (section.eval_split, section.eval_limit)):
        try:
            loaded.append(load_split(recipe, split, limit))
        except UnreachableError:
            raise
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*dict.fromkeys(faults))
    train, test = loaded
    check_disjoint(train, test)
    return train, test


def check_data_source(recipe: Recipe) -> None:
    """Check that the data exists, reading as little as possible.

    Raises:
        InputError: a source does not exist or has no rows.
        UnreachableError: a data set on the Hub cannot be loaded.
    """
    section = recipe.data
    if not is_own_data(section):
        scienceqa.load_problems(get_scienceqa_path(section), section.train_split, pictures=False, limit=1)
    elif not section.streaming:
        for entry in section.all_sources:
            find_rows(locate_path(section, entry.path), section.train_split)
