"""The examples of one split with an account of their rows. Knows no recipe and loads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_mm.data.example import Example
from lora_mm.data.scienceqa import Problem
from lora_mm.errors import InputError


@dataclass(frozen=True)
class DataSplit:
    """The examples of one split.

    Attributes:
        name: name of the split.
        examples: the examples, each read on access.
        account_lines: lines that account for every row.
        hashes: a 64-bit hash of each example, to find examples that are in two splits.
        problems: ScienceQA problems in the order of the examples, for the official score; None for other data.
        faults: faults of dropped rows, the first thousand.
    """

    name: str
    examples: Sequence[Example]
    account_lines: tuple[str, ...]
    hashes: np.ndarray
    problems: tuple[Problem, ...] | None = None
    faults: tuple[str, ...] = ()

    def account(self) -> str:
        """Account for every row, in plain text."""
        return "\n".join(self.account_lines)


def check_disjoint(train: DataSplit, test: DataSplit) -> None:
    """Check that no example is in both splits.

    Args:
        train: the training examples.
        test: the evaluation examples.

    Raises:
        InputError: examples are in both; says how many, and names one.
    """
    shared = np.flatnonzero(np.isin(train.hashes, test.hashes))
    if len(shared):
        name = train.examples[int(shared[0])].id
        raise InputError(
            f"{len(shared):,} examples are in both data.train_split={train.name} and data.eval_split={test.name}, "
            f"for example {name}; a score on training examples means nothing."
        )
