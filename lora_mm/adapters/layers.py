"""The one adapter layer: a module of the base with routed low-rank updates on it. Knows no model and no method."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from lora_mm.adapters.kernel_choice import HasKernelChoice
from lora_mm.adapters.norms import NormInput, find_foldable_norm
from lora_mm.adapters.peft_lora import make_frozen_linear
from lora_mm.adapters.placement import ResolvedPlacement
from lora_mm.adapters.signal import Signal
from lora_mm.adapters.token_router import TokenRouter
from lora_mm.adapters.weights import AdapterWeight, AdapterWeights
from lora_mm.errors import InputError
from lora_mm.ops.linear import adapted_linears
from lora_mm.ops.lowrank import make_update, routed_update
from lora_mm.ops.update import Norm


@dataclass(frozen=True)
class LayerContext:
    """The place of an adapted layer in the model.

    Attributes:
        role: role of the layer in its block (see :mod:`lora_mm.models.layer_roles`).
        modalities: M, the number of modalities that a sample of this part can have.
        first: the layer that owns the shared weights: of a router by modality the embeddings of the part's modalities,
            of a router by token the router of the feed-forward, of tied q, k and v the down-projection and the learned
            scales. None if this layer is the first, or shares nothing.
        residual: the norm whose input the update reads in place of the layer's own; None for the layer's own.
    """

    role: str
    modalities: int = 1
    first: "RoutedLayer | None" = None
    residual: nn.Module | None = None


class RoutedLayer(nn.Module, BaseTunerLayer, HasKernelChoice):
    """``base_layer`` plus, for every active adapter, its routed low-rank update.

    Weights of adapter ``n``, in containers that PEFT finds by name (fp32; D in and out are the layer's):
        ``routed_down[n]`` weight [K, Din], bias [K]: the down-projection, shared (K = r) or the experts' stacked
            (K = E·r); of tied q, k and v in the first of them only.
        ``routed_up[n]`` weight [E, Dout, r / groups], bias [E, Dout]: the experts' up-projections.
        ``routed_router[n]`` weight [E, Din], bias [E]: the router by modality; by token, without a bias, and in the
            first layer of a feed-forward only.
        ``routed_scale[n]`` weight [E]: learned scales, starting at 1; of tied q, k and v in the first of them only.
        ``routed_modality[n]`` weight [M, Din]: one learned embedding a modality, which the routers of a part share; the
            part's first layer owns it.

    Args:
        base_layer: a norm or a linear layer of the base, or another routed layer on one, whose update is added too.
        signal: what routers by modality, visual token and crop read; None if no adapter of the model routes.
    """

    adapter_layer_names = ("routed_down", "routed_up", "routed_router", "routed_scale", "routed_modality")

    def __init__(self, base_layer: nn.Module, signal: Signal | None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.signal = signal
        self.placements: dict[str, ResolvedPlacement] = {}
        self.roles: dict[str, str] = {}
        self.modality_embeddings: dict[str, AdapterWeights] = {}
        self.token_routers: dict[str, TokenRouter] = {}
        self.tied_to: dict[str, RoutedLayer] = {}
        self.norm_inputs: dict[str, NormInput] = {}
        self.routed_down, self.routed_up = AdapterWeights(), AdapterWeights()
        self.routed_router, self.routed_scale = AdapterWeights(), AdapterWeights()
        self.routed_modality = AdapterWeights()
        self.in_features, self.out_features = get_feature_sizes(base_layer)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, placement: ResolvedPlacement, context: LayerContext) -> None:
        """Create the weights of one adapter. The update starts at zero, so the model starts as its base.

        Args:
            adapter_name: PEFT's name for the adapter.
            placement: method and sizes of the adapter.
            context: place of this layer in the model.
        """
        experts, groups, rank, row = placement.experts, placement.groups, placement.rank, placement.row
        self.placements[adapter_name], self.roles[adapter_name] = placement, context.role
        if context.residual is not None:
            self.norm_inputs[adapter_name] = NormInput(context.residual)
        up_bias = torch.zeros(experts, self.out_features) if placement.bias else None
        self.routed_up[adapter_name] = AdapterWeight(torch.zeros(experts, self.out_features, rank // groups), up_bias)
        if placement.tied_qkv and context.first is not None:
            self.tied_to[adapter_name] = context.first
        else:
            width = self.in_features if context.residual is None else get_feature_sizes(context.residual)[0]
            self._add_down(adapter_name, placement, width)
        if row.router == "modality":
            self._add_modality_router(adapter_name, experts, context)
        elif row.router == "token":
            self._add_token_router(adapter_name, placement, context)
        self._move_to_base_device(adapter_name)
        self.set_adapter(self.active_adapters)

    def _add_down(self, adapter_name: str, placement: ResolvedPlacement, width: int) -> None:
        # LaVIN: A Xavier-uniform, B and every bias zero; LoRA's A is Kaiming-uniform (a = √5), as in PEFT and Monkey.
        shared = placement.row.shared_down
        down = torch.empty(placement.rank if shared else placement.experts * placement.rank, width)
        if shared:
            nn.init.xavier_uniform_(down)
        else:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.routed_down[adapter_name] = AdapterWeight(down, torch.zeros(len(down)) if placement.bias else None)
        if placement.learned_scale:
            self.routed_scale[adapter_name] = AdapterWeight(torch.ones(placement.experts))

    def _move_to_base_device(self, adapter_name: str) -> None:
        """Move one adapter to the device of the base layer; PEFT's own method casts it to the base's dtype as well."""
        device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        if device is None or "meta" in (device.type, self.routed_up[adapter_name].weight.device.type):
            return
        for name in self.adapter_layer_names:
            weights = getattr(self, name)
            if adapter_name in weights:
                weights[adapter_name].to(device)

    def _draw_router_weight(self, *shape: int) -> Tensor:
        bound = 1 / math.sqrt(self.in_features)  # nn.Linear's default, as in LaVIN and MoE-LLaVA
        return torch.empty(shape).uniform_(-bound, bound)

    def _add_modality_router(self, adapter_name: str, experts: int, context: LayerContext) -> None:
        weight = self._draw_router_weight(experts, self.in_features)
        self.routed_router[adapter_name] = AdapterWeight(weight, self._draw_router_weight(experts))
        if context.first is None:
            self.routed_modality[adapter_name] = AdapterWeight(torch.randn(context.modalities, self.in_features))
        self.modality_embeddings[adapter_name] = (context.first or self).routed_modality

    def _add_token_router(self, adapter_name: str, placement: ResolvedPlacement, context: LayerContext) -> None:
        if context.first is not None:
            self.token_routers[adapter_name] = context.first.token_routers[adapter_name]
            return
        router = AdapterWeight(self._draw_router_weight(placement.experts, self.in_features))
        self.routed_router[adapter_name] = router
        self.token_routers[adapter_name] = TokenRouter(router, placement.top_k, placement.balance)

    def compute_routing_table(self, adapter_name: str) -> Tensor:
        """Compute every expert's weight for every modality, ``[M, E]``: w = softmax((R m̂ + c) / t), m̂ = m / rms(m)."""
        embedding = self.modality_embeddings[adapter_name][adapter_name].weight
        router = self.routed_router[adapter_name]
        unit = embedding * torch.rsqrt(embedding.square().mean(dim=-1, keepdim=True) + 1e-6)
        logits = nn.functional.linear(unit, router.weight, router.bias)
        return torch.softmax(logits / self.placements[adapter_name].temperature, dim=-1)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the base layer and add the active adapters' updates."""
        names = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.placements]
        folds = bool(names) and self._reads_output(names[0]) and not self._drops_input(names[0])
        if folds and (norm := find_foldable_norm(self.base_layer, x)) is not None:
            first, *names = names
            output = self._add_update(first, x, x, norm)
        elif not (args or kwargs) and self._is_fusable(names):
            base = make_frozen_linear(self.base_layer, x)
            if base is not None:
                update = make_update(x, **self._route(names[0], x), **self.get_update_options(names[0]))
                return adapted_linears(x, [(base, update)])[0]
            output = self._call_base(x)
        else:
            output = self._call_base(x, *args, **kwargs)
        for name in names:
            output = self._add_adapter(name, x, output)
        return output

    def _call_base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the base layer. bitsandbytes' int8 product takes three dimensions; experts side by side add a fourth."""
        folded = x.flatten(0, -3) if x.dim() > 3 else x
        output: Tensor = self.base_layer(folded, *args, **kwargs)
        return output.unflatten(0, x.shape[:-2]) if x.dim() > 3 else output

    def _reads_output(self, name: str) -> bool:
        return self.placements[name].row.reads == "output"

    def _drops_input(self, name: str) -> bool:
        placement = self.placements[name]
        return self.training and placement.drops == "input" and placement.dropout > 0

    def _is_fusable(self, names: list[str]) -> bool:
        """Whether the layer and its update can run as one function: for one adapter, which reads the layer's input."""
        if len(names) != 1 or names[0] in self.norm_inputs or self._drops_input(names[0]):
            return False
        return not self._reads_output(names[0]) and not self.placements[names[0]].side_by_side

    def _add_adapter(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        """Add the update of adapter ``name``, which reads the layer's input, its output or the input of a norm."""
        update_input = output if self._reads_output(name) else x
        if name in self.norm_inputs:
            update_input = self.norm_inputs[name].take()
        if self.placements[name].side_by_side:
            return self._add_experts_side_by_side(name, update_input, output)
        return self._add_update(name, update_input, output)

    def _add_update(self, name: str, update_input: Tensor, output: Tensor, norm: Norm | None = None) -> Tensor:
        routing, options = self._route(name, update_input), self.get_update_options(name)
        return routed_update(output, self._drop_input(name, update_input), norm=norm, **routing, **options)

    def _drop_input(self, name: str, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.placements[name].dropout) if self._drops_input(name) else x

    def get_update_options(self, name: str) -> dict[str, Any]:
        """Get the arguments of :func:`~lora_mm.ops.lowrank.make_update` for adapter ``name`` that no input changes."""
        placement, up = self.placements[name], self.routed_up[name]
        down = self.tied_to.get(name, self).routed_down[name]
        return {
            "down": down.weight,
            "up": up.weight,
            "down_bias": down.bias,
            "up_bias": up.bias,
            "groups": placement.groups,
            "scale": placement.factor,
            "dropout": placement.dropout if self.training and placement.drops == "hidden" else 0.0,
            "kernels": self.kernels,
        }

    def get_learned_scale(self, name: str) -> Tensor | None:
        """Get the experts' learned scales ``[E]``; None if adapter ``name`` has none."""
        scales = self.tied_to.get(name, self).routed_scale
        return scales[name].weight if name in scales else None

    def _route(self, name: str, x: Tensor) -> dict[str, Any]:
        """Route ``x`` [batch, tokens, D]: ``weights`` of the experts, [batch, 1 or tokens, E], or [E] if equal in all
        rows; for a router by crop also ``index``, the expert of each row."""
        router, scale = self.placements[name].row.router, self.get_learned_scale(name)
        if router is None:
            return {"weights": scale}
        if router == "crop":
            assert self.signal is not None
            return {"weights": scale, "index": self.signal.get_crop_index(x.shape[0])}
        if router == "modality":
            weights = self._weigh_by_modality(name, x)
        elif router == "visual":
            weights = self._weigh_by_token_kind(name, x)
        else:
            weights = self._weigh_by_token(name, x)
        return {"weights": weights if scale is None else weights * scale}

    def _weigh_by_modality(self, name: str, x: Tensor) -> Tensor:
        table = self.compute_routing_table(name)
        if table.shape[0] == 1:  # a vision tower, which sees pictures only
            return table[0]
        assert self.signal is not None
        if x.dim() == 2:  # OPT's feed-forward folds rows and tokens into one dimension
            return table[self.signal.get_folded_modality(x.shape[0])]
        return table[self.signal.get_modality(x.shape[0])].unsqueeze(1)

    def _weigh_by_token_kind(self, name: str, x: Tensor) -> Tensor:
        assert self.signal is not None
        marks = self.placements[name].marks
        if x.dim() == 2:
            visual = self.signal.get_folded_visual(x.shape[0], marks=marks)
        else:
            visual = self.signal.get_visual(x.shape[0], x.shape[1], marks=marks)
        return visual.unsqueeze(-1).to(x.dtype)

    def _weigh_by_token(self, name: str, x: Tensor) -> Tensor:
        weights, chosen = self._choose_experts(name, x)
        return (chosen * weights.unsqueeze(-1).to(x.dtype)).sum(dim=-2)

    def _choose_experts(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of each token's experts ``[batch, tokens, k]``, and which they are ``[batch, tokens, k, E]``."""
        router = self.token_routers[name]
        if self.roles[name] == "down":
            weights, index = router.take_routes()
        else:
            real = None
            if self.signal is not None and self.placements[name].part == "language":
                real = self.signal.get_real(x.shape[:-1].numel())
            weights, index = router.route(x, real, training=self.training)
        return weights, nn.functional.one_hot(index, len(self.routed_up[name].weight)).to(x.dtype)

    def _add_experts_side_by_side(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        """Run one layer of a feed-forward whose experts run side by side (see :mod:`.token_router`)."""
        weights, chosen = self._choose_experts(name, x)
        chosen = chosen.movedim(-2, 0)
        is_last, scale = self.roles[name] == "down", self.get_learned_scale(name)
        chosen = chosen if scale is None else chosen * scale  # [k, batch, tokens, E]
        if not is_last:
            output = output.expand(len(chosen), *output.shape)
        results = routed_update(output, self._drop_input(name, x), weights=chosen, **self.get_update_options(name))
        if not is_last:
            return results
        first = results[0]  # the weights sum to 1; in this form, the mixture of equal results is equal to the bit
        others = (results[1:] - first) * weights.movedim(-1, 0)[1:].unsqueeze(-1).to(first.dtype)
        return first + others.sum(dim=0)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from this layer; PEFT calls it on every layer."""
        for by_name in (self.placements, self.roles, self.modality_embeddings, self.token_routers, self.tied_to):
            by_name.pop(adapter_name, None)
        if adapter_name in self.norm_inputs:
            self.norm_inputs.pop(adapter_name).remove()
        super().delete_adapter(adapter_name)

    def __repr__(self) -> str:
        return "routed." + super().__repr__()


def get_feature_sizes(base_layer: nn.Module) -> tuple[int, int]:
    """Get the width of the input and of the output of a norm or a linear layer, adapted or not.

    Raises:
        InputError: any other module.
    """
    if isinstance(base_layer, RoutedLayer):
        return base_layer.in_features, base_layer.out_features
    weight = getattr(base_layer, "weight", None)
    if weight is not None and weight.dim() == 1:
        return weight.shape[0], weight.shape[0]
    d_in, d_out = _get_in_out_features(base_layer)
    if d_in is None or d_out is None:
        raise InputError(f"Cannot adapt a {type(base_layer).__name__}: it is neither a norm nor a linear layer.")
    return d_in, d_out
