"""Intervals against their definitions, and the figures of a table."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.evaluation.score import (
    Measure,
    Score,
    Tally,
    compute_wilson_interval,
    resample_means,
)

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_lies_around_the_share_and_inside_0_to_100(drawn: tuple[int, int]) -> None:
    correct, total = drawn
    low, high = compute_wilson_interval(correct, total)
    assert 0 <= low <= 100 * correct / total <= high <= 100
    assert (low == 0) == (correct == 0)
    assert (high == 100) == (correct == total)


@given(counts)
def test_wilson_is_symmetric(drawn: tuple[int, int]) -> None:
    correct, total = drawn
    low, high = compute_wilson_interval(correct, total)
    other_low, other_high = compute_wilson_interval(total - correct, total)
    assert (low, high) == (pytest.approx(100 - other_high), pytest.approx(100 - other_low))


@pytest.mark.parametrize("share", [Fraction(1, 20), Fraction(1, 3), Fraction(9, 10)])
def test_wilson_covers_the_truth_95_times_in_100(share: Fraction) -> None:
    """Summed over all outcomes of 200 questions, not sampled."""
    total, p = 200, float(share)
    held = sum(
        comb(total, k) * p**k * (1 - p) ** (total - k)
        for k in range(total + 1)
        if compute_wilson_interval(k, total)[0] <= 100 * p <= compute_wilson_interval(k, total)[1]
    )
    assert 0.93 < held < 0.97


def test_a_known_interval() -> None:
    assert compute_wilson_interval(421, 1000) == (pytest.approx(39.08, abs=0.005), pytest.approx(45.18, abs=0.005))


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_it_covers_the_mean_of_credits_95_times_in_100(mean: float) -> None:
    rng, total, tries = np.random.default_rng(0), 40, 4000
    credits = np.array([0, 0.3, 0.6, 0.9, 1])
    tilt = _tilt(credits, mean)
    sums = rng.choice(credits, size=(tries, total), p=tilt).sum(axis=1)
    ends = [compute_wilson_interval(value, total) for value in sums]
    assert np.mean([low <= 100 * mean <= high for low, high in ends]) >= 0.94


def _tilt(values: np.ndarray, mean: float) -> np.ndarray:
    """Probabilities of the values, exponential in them, with the given mean."""
    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        weights = np.exp(middle * values - max(0, middle))
        weights /= weights.sum()
        low, high = (middle, high) if weights @ values < mean else (low, middle)
    return weights


def test_the_same_credit_everywhere_is_no_certainty() -> None:
    assert compute_wilson_interval(0, 8) == (0, pytest.approx(32.44, abs=0.005))
    assert compute_wilson_interval(8, 8) == (pytest.approx(67.56, abs=0.005), 100)
    low, high = compute_wilson_interval(8 * 0.3, 8)
    assert low < 30 < high


def test_resampled_means_are_those_of_drawing_one_by_one() -> None:
    """The multinomial draw against drawing indices: mean and spread of 20,000 resamples."""
    values = np.array([0.0] * 3 + [0.5] * 2 + [1.0] * 5)
    rng = np.random.default_rng(5)
    plain = values[rng.integers(0, len(values), (20_000, len(values)))].mean(axis=1)
    ours = resample_means(values, seed=5, resamples=20_000)
    assert ours.mean() == pytest.approx(plain.mean(), abs=0.005)
    assert ours.std() == pytest.approx(plain.std(), abs=0.005)


def test_an_expectation_and_an_empty_column_have_no_interval() -> None:
    assert Tally(5, 10, is_expectation=True).interval is None
    assert Tally(0, 0).interval is None
    assert Tally(5, 10).as_dict()["interval"] == [23.66, 76.34]
    assert Measure(None, 3).text == "–"
    assert Measure(None, 3).as_dict() == {"value": None, "total": 3, "interval": None}


def test_the_headline_is_the_first_column_by_default() -> None:
    columns = {"a": Tally(1, 2), "b": Tally(1, 3)}
    assert Score(columns).headline_column == "a"
    assert Score(columns, headline="b").headline_column == "b"
