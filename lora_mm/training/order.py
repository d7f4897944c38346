"""The order of training examples in an epoch. Knows their lengths; knows no model and no recipe."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

POOL = 8
"""Optimizer steps whose examples the order ``stratified`` sorts together.

On the lengths of ScienceQA in batches of 4, accumulated 8 times, 34.9 % of the tokens of a random order are padding.
Pools of 1, 4, 8 and 16 steps leave 7.5, 2.2, 1.2 and 0.6 % (``benchmarks/order.py lengths``).
"""

Order = Callable[[Sequence[int], int, int, Generator], list[int]]
"""Lengths, examples per batch over all ranks, batches per optimizer step, random generator → indices in order."""


def order_at_random(lengths: Sequence[int], batch: int, accumulated: int, generator: Generator) -> list[int]:
    """Shuffle the examples; for the arguments see :data:`Order`."""
    return [int(index) for index in torch.randperm(len(lengths), generator=generator)]


def order_as_given(lengths: Sequence[int], batch: int, accumulated: int, generator: Generator) -> list[int]:
    """Keep the order of the examples; for the arguments see :data:`Order`."""
    return list(range(len(lengths)))


def group_by_length(lengths: Sequence[int], batch: int, accumulated: int, generator: Generator) -> list[int]:
    """Order as transformers' ``group_by_length`` does; for the arguments see :data:`Order`.

    Shuffled megabatches of 50 steps are sorted from long to short, so neighbouring steps have similar lengths too.
    """
    grouped: list[int] = get_length_grouped_indices(lengths, batch * accumulated, generator=generator)
    return grouped


def stratify_by_length(
    lengths: Sequence[int], batch: int, accumulated: int, generator: Generator, pool: int = POOL
) -> list[int]:
    """Shuffle, so that each step has short and long examples in proportion, in batches of similar length.

    The shuffled examples are cut into pools of several steps. Each pool is sorted by length and cut into strata, as
    many as a step has batches, and each step takes a random batch of each stratum (stratified sampling). So a step is
    as mixed as in a random order, and has little padding. With one batch per step there is one stratum, and a step has
    one range of lengths, drawn at random.

    Args:
        lengths: number of tokens of each example.
        batch: examples per batch, over all ranks.
        accumulated: batches per optimizer step.
        generator: random generator.
        pool: number of steps per pool.
    """
    order = order_at_random(lengths, batch, accumulated, generator)
    step = batch * accumulated
    whole = len(order) - len(order) % step
    ordered: list[int] = []
    for start in range(0, whole, pool * step):
        members = _sort_by_length(order[start : min(start + pool * step, whole)], lengths)
        steps = len(members) // step
        strata = _cut(members, steps * batch)
        shuffled = [_shuffle(_cut(stratum, batch), generator) for stratum in strata]
        ordered += [index for batches in zip(*shuffled, strict=True) for part in batches for index in part]
    return ordered + _sort_by_length(order[whole:], lengths)


ORDERS: dict[str, Order] = {
    "stratified": stratify_by_length,
    "random": order_at_random,
    "sequential": order_as_given,
    "group_by_length": group_by_length,
}
"""Value of ``training.train_sampling_strategy`` → the order."""


class EpochSampler(Sampler[int]):
    """Gives the examples in an order that depends only on seed and epoch, so that a resumed run continues it.

    (Transformers' samplers draw from a random stream; a resumed run continues that stream at another position.)

    Args:
        order: a value of :data:`ORDERS`.
        lengths: number of tokens of each example.
        batch: examples per batch, over all ranks.
        accumulated: batches per optimizer step.
        seed: random seed; the epoch is added to it.
    """

    def __init__(self, order: Order, lengths: Sequence[int], batch: int, accumulated: int, seed: int) -> None:
        self.order, self.lengths, self.batch, self.accumulated = order, lengths, batch, accumulated
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the data loader calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = Generator().manual_seed(self.seed + self.epoch)
        return iter(self.order(self.lengths, self.batch, self.accumulated, generator))


def _sort_by_length(indices: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Sort from long to short; examples of equal length keep their order."""
    return sorted(indices, key=lambda index: -lengths[index])


def _cut(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _shuffle(items: Sequence[Sequence[int]], generator: Generator) -> list[Sequence[int]]:
    return [items[int(index)] for index in torch.randperm(len(items), generator=generator)]
