"""The one adapter layer: a module of the base with routed low-rank updates on it. Knows no model and no method."""

import math
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from lora_mm.adapters.placement import Placement
from lora_mm.adapters.routing import Signal
from lora_mm.errors import InputError
from lora_mm.ops.lowrank import routed_update


class RoutedLayer(nn.Module, BaseTunerLayer):
    """``base_layer`` plus, for every active adapter, its routed low-rank update.

    Parameters of adapter ``n``, in containers that PEFT can find by name (fp32; D in and out are the layer's):
        ``routed_A[n]`` [r, Din], ``routed_a[n]`` [r]: the shared down-projection.
        ``routed_B[n]`` [E, Dout, r / groups], ``routed_b[n]`` [E, Dout]: the experts' up-projections.
        ``routed_R[n]`` [E, Din], ``routed_c[n]`` [E]: the router.
        ``routed_modality[n]`` [M, Din]: one learned embedding a modality, which the routers of a part share; the
        part's first layer owns it.
    """

    adapter_layer_names = (
        "routed_A", "routed_a", "routed_B", "routed_b", "routed_R", "routed_c", "routed_modality",
    )  # fmt: skip

    def __init__(self, base_layer: nn.Module, signal: Signal | None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.signal = signal
        self.placements: dict[str, Placement] = {}
        self.shared: dict[str, nn.ParameterDict] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.in_features, self.out_features = _features(base_layer)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def update_layer(
        self, adapter_name: str, placement: Placement, *, modalities: int, owner: "RoutedLayer | None"
    ) -> None:
        """Create the parameters of one adapter: the update starts at zero, so the model starts as its base.

        Args:
            placement: what to create.
            modalities: M, how many modalities a sample of this part can have.
            owner: the layer that holds the part's modality embedding; None makes this one the owner.

        Raises:
            InputError: when the layer's width cannot be cut into the placement's groups.
        """
        experts, groups, rank = placement.experts, placement.groups, placement.rank
        assert experts is not None
        assert groups is not None
        if self.out_features % groups:
            raise InputError(f"groups {groups} must divide the layer's width, {self.out_features}.")
        self.placements[adapter_name] = placement
        # LaVIN: A Xavier-uniform, B and every bias zero; LoRA's A is Kaiming-uniform (a = √5), as in PEFT.
        down = torch.empty(rank, self.in_features)
        if placement.row.router:
            nn.init.xavier_uniform_(down)
        else:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.routed_A[adapter_name] = nn.Parameter(down)
        self.routed_B[adapter_name] = nn.Parameter(torch.zeros(experts, self.out_features, rank // groups))
        if placement.bias:
            self.routed_a[adapter_name] = nn.Parameter(torch.zeros(rank))
            self.routed_b[adapter_name] = nn.Parameter(torch.zeros(experts, self.out_features))
        if placement.row.router == "modality":
            bound = 1 / math.sqrt(self.in_features)  # nn.Linear's default, as in LaVIN
            self.routed_R[adapter_name] = nn.Parameter(torch.empty(experts, self.in_features).uniform_(-bound, bound))
            self.routed_c[adapter_name] = nn.Parameter(torch.empty(experts).uniform_(-bound, bound))
            if owner is None:
                self.routed_modality[adapter_name] = nn.Parameter(torch.randn(modalities, self.in_features))
            self.shared[adapter_name] = (owner or self).routed_modality
        device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        if device is not None and device.type != "meta" and self.routed_A[adapter_name].device.type != "meta":
            for name in self.adapter_layer_names:
                container = getattr(self, name)
                if adapter_name in container:
                    container[adapter_name] = nn.Parameter(container[adapter_name].data.to(device))
        self.set_adapter(self.active_adapters)

    def routing_table(self, adapter_name: str) -> Tensor:
        """Weight of every expert for every modality, ``[M, E]``: w = softmax((R m̂ + c) / t), m̂ = m / rms(m)."""
        embedding = self.shared[adapter_name][adapter_name]
        unit = embedding * torch.rsqrt(embedding.square().mean(dim=-1, keepdim=True) + 1e-6)
        logits = nn.functional.linear(unit, self.routed_R[adapter_name], self.routed_c[adapter_name])
        return torch.softmax(logits / self.placements[adapter_name].temperature, dim=-1)

    def _weights(self, adapter_name: str, x: Tensor) -> Tensor | None:
        """The experts' weights for ``x`` [batch, tokens, D]: [batch, 1, E], or [E] where all rows are alike."""
        if self.placements[adapter_name].row.router is None:
            return None
        table = self.routing_table(adapter_name)
        if table.shape[0] == 1:  # a vision tower: whatever it sees is a picture
            return table[0]
        assert self.signal is not None
        return table[self.signal.rows(x.shape[0])].unsqueeze(1)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the base layer, with the active adapters' updates added."""
        output: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return output
        for name in self.active_adapters:
            if name not in self.placements:
                continue
            placement = self.placements[name]
            read = output if placement.row.reads == "output" else x
            output = routed_update(
                output,
                read,
                self.routed_A[name],
                self.routed_B[name],
                down_bias=self.routed_a[name] if placement.bias else None,
                up_bias=self.routed_b[name] if placement.bias else None,
                weights=self._weights(name, read),
                groups=placement.groups or 1,
                scale=placement.factor,
                dropout=(placement.dropout or 0.0) if self.training else 0.0,
            )
        return output

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget one adapter here; PEFT calls it on every layer."""
        self.placements.pop(adapter_name, None)
        self.shared.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def __repr__(self) -> str:
        return "routed." + super().__repr__()


def _features(base_layer: nn.Module) -> tuple[int, int]:
    """Width of what goes into and comes out of a norm or a linear layer."""
    weight = getattr(base_layer, "weight", None)
    if weight is not None and weight.dim() == 1:
        return weight.shape[0], weight.shape[0]
    d_in, d_out = _get_in_out_features(base_layer)
    if d_in is None or d_out is None:
        raise InputError(f"Cannot adapt a {type(base_layer).__name__}: it is neither a norm nor a linear layer.")
    return d_in, d_out
