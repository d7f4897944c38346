"""An adapter's trained weights in one layer, as modules that PEFT finds by the adapter's name. Knows no placement."""

from typing import cast

from torch import Tensor, nn


class AdapterWeight(nn.Module):
    """A trained weight with an optional trained bias.

    Args:
        weight: of any shape.
        bias: None for none.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))


class AdapterWeights(nn.ModuleDict):
    """Adapter name → its weight."""

    def __getitem__(self, name: str) -> AdapterWeight:
        return cast(AdapterWeight, super().__getitem__(name))
