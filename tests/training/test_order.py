"""The order of training examples: every example once, little padding, and steps as mixed as at random."""

from collections.abc import Sequence
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.training.order import ORDERS, EpochSampler

BATCH, ACCUMULATED = 4, 8
LENGTHS = [40 + number * 7 % 60 + (576 if number % 2 else 0) for number in range(3_210)]
"""Half with pictures; 100 whole steps and a part of one."""


def order_of(name: str, seed: int = 0) -> list[int]:
    return ORDERS[name](LENGTHS, BATCH, ACCUMULATED, torch.Generator().manual_seed(seed))


def share_of_padding(order: Sequence[int]) -> float:
    batches = [[LENGTHS[index] for index in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
    return 1 - sum(LENGTHS) / sum(max(batch) * len(batch) for batch in batches)


def mean_lengths_of_steps(order: Sequence[int]) -> list[float]:
    step = BATCH * ACCUMULATED
    return [fmean(LENGTHS[index] for index in order[start : start + step]) for start in range(0, len(order), step)]


@pytest.mark.parametrize("name", list(ORDERS))
@given(st.lists(st.integers(1, 50), min_size=1, max_size=90), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3))
def test_every_example_comes_once(name: str, lengths: list[int], batch: int, accumulated: int, epoch: int) -> None:
    sampler = EpochSampler(ORDERS[name], lengths, batch, accumulated, seed=0)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


def test_stratified_order_has_as_little_padding_as_grouping_and_steps_as_mixed_as_at_random() -> None:
    stratified, shuffled, grouped = (order_of(name) for name in ("stratified", "random", "group_by_length"))
    assert share_of_padding(shuffled) > 0.3
    assert share_of_padding(stratified) < 0.03
    spreads = [pstdev(mean_lengths_of_steps(order)[:-1]) for order in (stratified, shuffled, grouped)]
    assert spreads[0] < spreads[1] < spreads[2] / 3


def test_every_stratified_step_has_its_share_of_pictures() -> None:
    step = BATCH * ACCUMULATED
    order = order_of("stratified")
    shares = [fmean(index % 2 for index in order[start : start + step]) for start in range(0, 100 * step, step)]
    assert min(shares) > 0.35
    assert max(shares) < 0.65


def test_with_one_batch_per_step_its_length_says_nothing_about_the_next() -> None:
    order = ORDERS["stratified"](LENGTHS, BATCH, 1, torch.Generator().manual_seed(0))
    means = torch.tensor([fmean(LENGTHS[i] for i in order[n : n + BATCH]) for n in range(0, 3_200, BATCH)])
    assert torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1].abs() < 0.3
    assert share_of_padding(order) < 0.1


@pytest.mark.parametrize("name", ["stratified", "random", "group_by_length"])
def test_the_order_depends_on_seed_and_epoch_alone(name: str) -> None:
    sampler = EpochSampler(ORDERS[name], LENGTHS, BATCH, ACCUMULATED, seed=0)
    first = list(sampler)
    assert list(sampler) == first
    assert order_of(name, seed=1) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
