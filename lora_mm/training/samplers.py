"""The order of training examples. Knows their lengths and which have pictures; knows no model and no recipe."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroupedSampler(Sampler[int]):
    """Random order in which neighbours are of similar length. An epoch's order depends only on seed and epoch.

    With ``pictured``, each batch has one modality (Liu et al. 2024, LLaVA-1.5, who found it a quarter faster).

    (Transformers' own sampler draws from a random stream, and a resumed run enters that stream at another place.)

    Args:
        lengths: tokens of each example.
        batch_size: examples per optimiser step, over all ranks and accumulated batches.
        seed: of the order; the epoch is added to it.
        pictured: whether each example has a picture; None mixes both kinds.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, pictured: Sequence[int] | None = None
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.pictured = pictured

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.pictured is None:
            return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
        return iter(self._order_by_modality(self.pictured, generator))

    def _order_by_modality(self, pictured: Sequence[int], generator: torch.Generator) -> list[int]:
        """Full batches of one modality, in random order; then the examples that fill no batch of their modality."""
        batches: list[list[int]] = []
        rest: list[int] = []
        for kind in (True, False):
            members = [index for index, shown in enumerate(pictured) if bool(shown) is kind]
            if not members:
                continue
            lengths = [self.lengths[index] for index in members]
            grouped = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
            order = [members[position] for position in grouped]
            full = len(order) // self.batch_size * self.batch_size
            batches += [order[start : start + self.batch_size] for start in range(0, full, self.batch_size)]
            rest += order[full:]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [index for position in shuffled for index in batches[position]] + rest
