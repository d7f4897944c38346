"""The algebra of low-rank changes of linear layers. Knows tensors; knows no models, adapters or files.

Merging rests on two facts. An update beside a linear layer adds to its weight: W → W + B A. An update of a norm's
output, x → x + M x + c, equals other weights in the linear layers that read the norm: W → W + W M,
bias → bias + W c. Both are low-rank updates beside a linear layer, which is also what a stock LoRA holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRankUpdate:
    """A low-rank update, x → up (down x) + bias, in fp32.

    Attributes:
        down: ``[rank, Din]``.
        up: ``[Dout, rank]``.
        bias: ``[Dout]``; None for zero.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None

    def __add__(self, other: "LowRankUpdate") -> "LowRankUpdate":
        """The sum of two updates of the same input; the ranks add up."""
        return LowRankUpdate(
            torch.cat([self.down, other.down]),
            torch.cat([self.up, other.up], dim=1),
            _add_biases(self.bias, other.bias),
        )

    def compose_after(self, first: "LowRankUpdate") -> "LowRankUpdate":
        """Combine two updates of one input: first ``x + first(x)``, then this update of the result.

        (I + U₂V₂)(I + U₁V₁) = I + U₁V₁ + U₂(V₂ + V₂U₁V₁). Both updates map [D] to [D].
        """
        second = LowRankUpdate(self.down + (self.down @ first.up) @ first.down, self.up, self.bias)
        if first.bias is not None:
            shift = self.up @ (self.down @ first.bias)
            second = LowRankUpdate(second.down, second.up, _add_biases(shift, self.bias))
        return first + second


@dataclass(frozen=True)
class LayerChange:
    """What adapters change in one linear layer.

    Attributes:
        before: update of the layer's input; None for no change.
        beside: update of the layer's output, computed from its (updated) input; None for no change.
    """

    before: LowRankUpdate | None = None
    beside: LowRankUpdate | None = None

    @property
    def needs_bias(self) -> bool:
        """Whether the changed layer has a bias even if the original layer has none."""
        return any(update is not None and update.bias is not None for update in (self.before, self.beside))

    def as_update(self, weight: Tensor) -> LowRankUpdate:
        """Express the change as one update beside the layer, in fp32.

        (W + L)(x + M x + c) = W x + [(W + L) M + L] x + (W + L) c, with L beside the layer and M before it.

        Args:
            weight: of the layer, ``[Dout, Din]``, in fp32.
        """
        if self.before is None:
            assert self.beside is not None
            return self.beside
        up, shift = weight @ self.before.up, None
        if self.beside is not None:
            up += self.beside.up @ (self.beside.down @ self.before.up)
        if self.before.bias is not None:
            shift = weight @ self.before.bias
            if self.beside is not None:
                shift += self.beside.up @ (self.beside.down @ self.before.bias)
        update = LowRankUpdate(self.before.down, up, shift)
        return update if self.beside is None else update + self.beside

    def merge_into(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Merge the change into a layer's weight and bias, in fp32.

        Args:
            weight: ``[Dout, Din]`` in fp32; overwritten.
            bias: ``[Dout]`` in any dtype; None if the layer has none.

        Returns:
            The merged weight and bias; the bias is None where neither layer nor change has one.
        """
        update = self.as_update(weight)
        weight = weight.addmm_(update.up, update.down)
        if update.bias is not None:
            bias = update.bias if bias is None else bias.to(update.bias.dtype) + update.bias
        return weight, bias


def _add_biases(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
