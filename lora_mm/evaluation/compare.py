"""Compares two models' answers to the same questions by a paired test. Knows answers, not models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.score import Interval, compute_percentile_interval, resample_means

if TYPE_CHECKING:
    import numpy as np

_RESAMPLES = 10_000
"""Number of resamples of the paired bootstrap; its smallest p is 2 / (this number + 1)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two models.

    Attributes:
        names: names of the two models.
        difference: difference of their mean credits, first minus second, in points of 100.
        interval: 95 % interval of the difference by paired bootstrap, in the same points.
        p: two-sided p-value: the probability of a difference at least as large between equal models.
        test: ``exact McNemar`` if answers are right or wrong, ``paired bootstrap`` if they earn partial credit.
        both, first, second, neither: number of questions that both, only the first, only the second, or neither model
            answered right.
    """

    names: tuple[str, str]
    difference: float
    interval: Interval
    p: float
    test: str
    both: int
    first: int
    second: int
    neither: int

    def sentences(self) -> list[str]:
        """Describe the comparison in two lines."""
        first, second = self.names
        low, high = self.interval
        return [
            f"{first} minus {second}: {self.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; "
            f"{self.test}, p {'< 0.0001' if self.p < 1e-4 else f'= {self.p:.4f}'}.",
            f"Right: both {self.both:,}, only {first} {self.first:,}, only {second} {self.second:,}, "
            f"neither {self.neither:,}.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "of": list(self.names),
            "difference": round(self.difference, 4),
            "interval": [round(end, 4) for end in self.interval],
            "p": self.p,
            "test": self.test,
            "right": {"both": self.both, "only_first": self.first, "only_second": self.second, "neither": self.neither},
        }


def compare_answers(names: tuple[str, str], first: Sequence[Answer], second: Sequence[Answer]) -> Comparison:
    """Compare two models' answers by a paired test.

    Args:
        names: names of the two models.
        first: one model's answers.
        second: the other model's answers to the same questions, in any order.

    Returns:
        The comparison of the first model with the second.

    Raises:
        InputError: the models answered different questions.
    """
    by_id = {answer.id: answer for answer in second}
    different = {answer.id for answer in first} ^ set(by_id)
    if different:
        raise InputError(
            f"{names[0]} and {names[1]} answered different questions: {len(different):,} differ, for example "
            f"{min(different)}. A paired test needs the same questions."
        )
    import numpy as np

    pairs = [(answer, by_id[answer.id]) for answer in first]
    gains = np.asarray([answer.points - rival.points for answer, rival in pairs])
    means = 100 * resample_means(gains, seed=0, resamples=_RESAMPLES)
    outcomes = Counter((answer.correct, rival.correct) for answer, rival in pairs)
    only_first, only_second = outcomes[True, False], outcomes[False, True]
    all_or_nothing = all(answer.points in (0, 1) for pair in pairs for answer in pair)
    return Comparison(
        names=names,
        difference=100 * float(gains.mean()),
        interval=compute_percentile_interval(means),
        p=compute_mcnemar_p(only_first, only_second) if all_or_nothing else _compute_bootstrap_p(means),
        test="exact McNemar" if all_or_nothing else "paired bootstrap",
        both=outcomes[True, True],
        first=only_first,
        second=only_second,
        neither=outcomes[False, False],
    )


def compute_mcnemar_p(only_first: int, only_second: int) -> float:
    """Compute the exact two-sided p of McNemar's test (1947).

    Args:
        only_first: number of questions that only the first model answered right.
        only_second: number of questions that only the second model answered right.

    Returns:
        The probability that a fair coin splits these questions at least as unevenly.
    """
    total, ways, tail = only_first + only_second, 1, 0
    for k in range(min(only_first, only_second) + 1):  # ways is the binomial coefficient (total, k), an exact integer
        tail += ways
        ways = ways * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)


def _compute_bootstrap_p(means: "np.ndarray") -> float:
    """Compute a two-sided p from resampled differences: twice the share beyond zero, never 0."""
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(means) + 1))
