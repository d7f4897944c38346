"""How far the logits of two models are apart on the same probes, and how far they may be. Knows no adapters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_mm.models.forward import IGNORE_INDEX, compute_supervised_logits

Batch = dict[str, Tensor]

EXACT = 5e-5
"""Of the largest logit: what two orders of the same sums may differ by in fp32 (measured: 1e-6, at worst 3e-5)."""

SHARE = 0.1
"""Of the adapter's own effect: what rounding to 16 bits may add to it or take away (measured: 0.02 in bfloat16)."""

ROUNDED = 2**-8
"""Of the largest logit: the same, on probes where the adapter has no effect at all; half a bfloat16's last digit."""


@torch.no_grad()
def compute_probe_logits(model: Any, batches: Sequence[Batch]) -> list[Tensor]:
    """What ``model`` says where a token of the answer is due: for each batch, logits [tokens, vocabulary] in fp32."""
    model.eval()
    found = []
    for batch in batches:
        logits, targets = compute_supervised_logits(model, batch)
        found.append(logits[targets != IGNORE_INDEX].cpu())
    return found


@dataclass(frozen=True)
class Drift:
    """Two models' logits compared, on all probes of one modality.

    Attributes:
        largest: max |Δlogit|.
        typical: root mean square of Δlogit.
        effect: root mean square of what the adapter changes in the base's logits.
        logit: the largest logit's magnitude.
        tokens: how many next tokens were asked for.
        agreed: of them, those that both models think likeliest.
    """

    largest: float
    typical: float
    effect: float
    logit: float
    tokens: int
    agreed: int

    @property
    def coarse(self) -> float:
        """What ``typical`` may be, however few the bits: so a merge that left the adapter out never passes."""
        return SHARE * self.effect if self.effect else ROUNDED * self.logit

    @property
    def fine(self) -> float:
        """What ``largest`` may be where both models compute in fp32."""
        return EXACT * max(1.0, self.logit)

    def within(self, *, exact: bool) -> bool:
        """Whether the models are as near as can be asked of them; never where some logit is no number.

        Args:
            exact: whether both compute in fp32.
        """
        return self.typical <= self.coarse and (not exact or self.largest <= self.fine)


def measure_drift(before: Sequence[Tensor], after: Sequence[Tensor], base: Sequence[Tensor]) -> Drift:
    """Compare what :func:`compute_probe_logits` gave of the unmerged and of the merged model, and of the base alone."""
    changes = [new - old for old, new in zip(before, after, strict=True)]
    effects = [old - plain for old, plain in zip(before, base, strict=True)]
    pairs = list(zip(before, after, strict=True))
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
    """One line a modality: the figures, and the tolerances that they were held against."""
    for modality, one in drifts.items():
        finer = f" ({one.fine:.1e} is accepted)" if exact else ""
        yield (
            f"{modality}: max |Δlogit| {one.largest:.1e}{finer}; root mean square {one.typical:.1e} ({one.coarse:.1e} "
            f"is accepted, the adapter itself makes {one.effect:.1e}); {one.agreed} of {one.tokens} likeliest tokens "
            "equal"
        )
