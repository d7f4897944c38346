"""Two models on the same questions: whether one answers better, by a paired test. Knows answers; knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.score import Interval, compute_percentile_interval, resample_means

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first of two models against the second.

    Attributes:
        names: the two.
        difference: of their mean worth, first minus second, in points of 100.
        interval: 95 %, by paired bootstrap.
        p: two-sided probability of a difference as large if there were none.
        test: ``exact McNemar`` where answers are right or wrong, ``paired bootstrap`` where they are worth shares.
        both, first, second, neither: questions that both, only the first, only the second, or neither answered right
            (worth half or more).
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
        """What was found, in two lines."""
        one, other = self.names
        low, high = self.interval
        return [
            f"{one} minus {other}: {self.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; "
            f"{self.test}, p {'< 0.0001' if self.p < 1e-4 else f'= {self.p:.4f}'}.",
            f"Right: both {self.both:,}, only {one} {self.first:,}, only {other} {self.second:,}, "
            f"neither {self.neither:,}.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "of": list(self.names),
            "difference": round(self.difference, 4),
            "interval": [round(end, 4) for end in self.interval],
            "p": self.p,
            "test": self.test,
            "right": {"both": self.both, "only_first": self.first, "only_second": self.second, "neither": self.neither},
        }


def compare_answers(names: tuple[str, str], first: Sequence[Answer], second: Sequence[Answer]) -> Comparison:
    """The paired test of two models' answers to the same questions.

    Raises:
        InputError: when they were not asked the same.
    """
    others = {answer.id: answer for answer in second}
    unlike = {answer.id for answer in first} ^ set(others)
    if unlike:
        raise InputError(
            f"{names[0]} and {names[1]} were not asked the same: {len(unlike):,} questions differ, such as "
            f"{min(unlike)}. A paired test needs the same questions."
        )
    import numpy as np

    pairs = [(one, others[one.id]) for one in first]
    gains = np.asarray([one.points - other.points for one, other in pairs])
    means = 100 * resample_means(gains, seed=0, resamples=RESAMPLES)
    only_first = sum(one.right and not other.right for one, other in pairs)
    only_second = sum(other.right and not one.right for one, other in pairs)
    both = sum(one.right and other.right for one, other in pairs)
    counted = all(answer.points in (0, 1) for pair in pairs for answer in pair)
    return Comparison(
        names=names,
        difference=100 * float(gains.mean()),
        interval=compute_percentile_interval(means),
        p=mcnemar(only_first, only_second) if counted else _crossing(means),
        test="exact McNemar" if counted else "paired bootstrap",
        both=both,
        first=only_first,
        second=only_second,
        neither=len(pairs) - both - only_first - only_second,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's (1947) test: of the questions that only one answered right, heads or tails."""
    total, ways, tail = only_first + only_second, 1, 0
    for k in range(min(only_first, only_second) + 1):  # ways = total over k, in whole numbers
        tail += ways
        ways = ways * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)


def _crossing(means: Any) -> float:
    """Two-sided p from resampled differences: twice the share on the other side of zero, and never quite none."""
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(means) + 1))
