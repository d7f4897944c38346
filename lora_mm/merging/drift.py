"""Compares the logits of two models on the same probes, and sets limits. Knows no adapters and no files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_mm.models.forward import IGNORE_INDEX, compute_supervised_logits

Batch = dict[str, Tensor]

FP32_SHARE = 5e-5
"""Limit of max |Δlogit| in fp32, as a share of the largest logit: two orders of the same sums differ by less
(measured: 1e-6, at worst 3e-5)."""

EFFECT_SHARE = 0.1
"""Limit of the root mean square of Δlogit, as a share of the adapter's effect (measured: 0.02 in bfloat16)."""

ROUNDING_SHARE = 2**-8
"""The same limit if the adapter has no effect, as a share of the largest logit: half of bfloat16's last digit."""


@torch.no_grad()
def compute_probe_logits(model: Any, batches: Sequence[Batch]) -> list[Tensor]:
    """Compute the logits that predict each supervised token.

    Args:
        model: transformers model, with or without adapters; switched to evaluation.
        batches: model inputs with ``labels``.

    Returns:
        For each batch, logits ``[supervised tokens, vocabulary]`` in fp32 on the CPU.
    """
    model.eval()
    logits_by_batch = []
    for batch in batches:
        logits, targets = compute_supervised_logits(model, batch)
        logits_by_batch.append(logits[targets != IGNORE_INDEX].cpu())
    return logits_by_batch


@dataclass(frozen=True)
class Drift:
    """Difference between two models' logits, over all probes of one modality.

    Attributes:
        largest: max |Δlogit|.
        typical: root mean square of Δlogit.
        effect: root mean square of the adapter's change of the base's logits.
        logit: largest |logit|.
        tokens: number of predicted tokens.
        agreed: number of them for which both models find the same token likeliest.
    """

    largest: float
    typical: float
    effect: float
    logit: float
    tokens: int
    agreed: int

    @property
    def typical_limit(self) -> float:
        """Limit of ``typical``, in any precision: a merge that leaves the adapter out always exceeds it."""
        return EFFECT_SHARE * self.effect if self.effect else ROUNDING_SHARE * self.logit

    @property
    def largest_limit(self) -> float:
        """Limit of ``largest``, where both models compute in fp32."""
        return FP32_SHARE * max(1.0, self.logit)

    def is_within_limits(self, *, exact: bool) -> bool:
        """Whether the models agree; False if a logit is not a number.

        Args:
            exact: whether both models compute in fp32, so that ``largest`` has a limit too.
        """
        return self.typical <= self.typical_limit and (not exact or self.largest <= self.largest_limit)


def measure_drift(before: Sequence[Tensor], after: Sequence[Tensor], base: Sequence[Tensor]) -> Drift:
    """Compare logits of the same probes, as :func:`compute_probe_logits` returns them.

    Args:
        before: logits of the adapted model.
        after: logits of the merged model.
        base: logits of the base without adapters.
    """
    pairs = list(zip(before, after, strict=True))
    changes = [new - old for old, new in pairs]
    effects = [old - plain for old, plain in zip(before, base, strict=True)]
    return Drift(
        largest=max(change.abs().max().item() for change in changes),
        typical=_root_mean_square(changes),
        effect=_root_mean_square(effects),
        logit=max(old.abs().max().item() for old in before),
        tokens=sum(len(old) for old in before),
        agreed=sum(int((old.argmax(dim=-1) == new.argmax(dim=-1)).sum()) for old, new in pairs),
    )


def _root_mean_square(tensors: Sequence[Tensor]) -> float:
    total = sum(tensor.square().sum(dtype=torch.float64).item() for tensor in tensors)
    return float((total / sum(tensor.numel() for tensor in tensors)) ** 0.5)


def format_drift(drifts: Mapping[str, Drift], *, exact: bool) -> Iterable[str]:
    """Describe each drift in one line: its figures, each with the limit it must stay under.

    Args:
        drifts: modality → drift.
        exact: as for :meth:`Drift.is_within_limits`.
    """
    for modality, drift in drifts.items():
        largest = f" (limit {drift.largest_limit:.1e})" if exact else " (no limit in this precision)"
        share = f"{EFFECT_SHARE:.0%} of the adapter's effect" if drift.effect else "the adapter has no effect here"
        yield (
            f"{modality}: max |Δlogit| {drift.largest:.1e}{largest}; root mean square {drift.typical:.1e} "
            f"(limit {drift.typical_limit:.1e}: {share}); same likeliest token in {drift.agreed} of {drift.tokens}"
        )
