"""The examples of one split with the account of their rows. Knows no recipe and does not load anything."""

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
        name: of the split.
        examples: read when they are asked for.
        account_lines: what became of every row, a line each.
        hashes: 64 bits for each example, by which an example that is in two splits is found.
        problems: of ScienceQA, what its official score asks for, in the examples' order; else None.
        faults: what is wrong with rows that were dropped, as far as it was kept in words.
    """

    name: str
    examples: Sequence[Example]
    account_lines: tuple[str, ...]
    hashes: np.ndarray
    problems: tuple[Problem, ...] | None = None
    faults: tuple[str, ...] = ()

    def account(self) -> str:
        """What became of the rows, for people."""
        return "\n".join(self.account_lines)


def check_disjoint(train: DataSplit, test: DataSplit) -> None:
    """Check that no example is trained on and evaluated on too.

    Args:
        train: the examples to train on.
        test: the examples to evaluate on.

    Raises:
        InputError: how many examples are in both, and one of them.
    """
    shared = np.flatnonzero(np.isin(train.hashes, test.hashes))
    if len(shared):
        name = train.examples[int(shared[0])].id
        raise InputError(
            f"{len(shared):,} examples are in both data.train_split={train.name} and data.eval_split={test.name}, "
            f"for example {name}; a score on training examples means nothing."
        )
