"""Finds the questions that a base can be asked within ``data.max_length``, and leaves out others. Knows no metric."""

from dataclasses import replace

import numpy as np

from lora_mm.data.collate import Collator
from lora_mm.data.data_split import DataSplit
from lora_mm.errors import InputError, truncate_faults
from lora_mm.recipe.data_section import DataSection


def fit_questions(split: DataSplit, collator: Collator, section: DataSection) -> DataSplit:
    """Leave out the questions that the recipe drops, and say so in the account of the split.

    A question is never truncated: what the model is not asked cannot be scored.

    Args:
        split: the evaluation split.
        collator: the collator of the base that is asked.
        section: the recipe's ``data`` section; ``overlong`` and ``faulty_rows`` say what to do.

    Raises:
        InputError: questions are too long or cannot be asked, and the recipe does not drop them; or none is left.
    """
    asked = collator.prepare(split.examples, section.overlong, section.faulty_rows, asked=True)
    kept = np.array(asked.examples.numbers)
    if not len(kept):
        raise InputError(
            f"No question of '{split.name}' is left: all are faulty or over data.max_length.",
            *truncate_faults(asked.faults),
        )
    lines = []
    if asked.dropped:
        lines.append(f"{split.name}: questions left out of the score as too long: {len(asked.dropped):,}")
    if asked.faults:
        faults = f"{len(asked.faults):,}, for example {asked.faults[0]}"
        lines.append(f"{split.name}: questions left out of the score as faulty: {faults}")
    if not lines:
        return split
    return replace(
        split,
        examples=asked.examples,
        hashes=split.hashes[kept],
        problems=None if split.problems is None else tuple(split.problems[number] for number in kept),
        account_lines=(*split.account_lines, *lines),
        faults=(*split.faults, *asked.faults),
    )
