"""The one adapter layer: a module of the base with routed low-rank updates on it. Knows no model and no method."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from lora_mm.adapters.peft_lora import as_frozen
from lora_mm.adapters.placement import ResolvedPlacement
from lora_mm.adapters.signal import Signal
from lora_mm.adapters.token_router import TokenRouter
from lora_mm.errors import InputError
from lora_mm.ops.linear import adapted_linears
from lora_mm.ops.lowrank import routed_update, update_of


@dataclass(frozen=True)
class Site:
    """What a layer has to know of its place in the model.

    Attributes:
        role: what the layer is in its block (see ``Stack.roles``).
        modalities: M, how many modalities a sample of this part can have.
        first: the layer that holds what is shared: by modality the embedding of the part's modalities, by token the
            router of the feed-forward; None makes this one the first.
        residual: the norm before the block, where its input is to be read in place of the layer's.
    """

    role: str
    modalities: int = 1
    first: "RoutedLayer | None" = None
    residual: nn.Module | None = None


class RoutedLayer(nn.Module, BaseTunerLayer):
    """``base_layer`` plus, for every active adapter, its routed low-rank update.

    Parameters of adapter ``n``, in containers that PEFT can find by name (fp32; D in and out are the layer's):
        ``routed_A[n]`` [K, Din], ``routed_a[n]`` [K]: the down-projection, shared (K = r) or the experts' stacked
            (K = E·r).
        ``routed_B[n]`` [E, Dout, r / groups], ``routed_b[n]`` [E, Dout]: the experts' up-projections.
        ``routed_s[n]`` [E]: learned scales, starting at 1.
        ``routed_R[n]`` [E, Din], ``routed_c[n]`` [E]: the router by modality; by token, without c, and in the first
            layer of a feed-forward only.
        ``routed_modality[n]`` [M, Din]: one learned embedding a modality, which the routers of a part share; the
        part's first layer owns it.
    """

    adapter_layer_names = (
        "routed_A", "routed_a", "routed_B", "routed_b", "routed_s", "routed_R", "routed_c", "routed_modality",
    )  # fmt: skip

    def __init__(self, base_layer: nn.Module, signal: Signal | None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.signal = signal
        self.placements: dict[str, ResolvedPlacement] = {}
        self.shared: dict[str, nn.ParameterDict] = {}
        self.mixtures: dict[str, TokenRouter] = {}
        self.roles: dict[str, str] = {}
        self.residuals: dict[str, Residual] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.in_features, self.out_features = feature_sizes(base_layer)
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, placement: ResolvedPlacement, site: Site) -> None:
        """Create the parameters of one adapter: the update starts at zero, so the model starts as its base.

        Args:
            placement: what to create.
            site: where this layer stands.
        """
        experts, groups, rank, row = placement.experts, placement.groups, placement.rank, placement.row
        assert experts is not None
        assert groups is not None
        self.placements[adapter_name], self.roles[adapter_name] = placement, site.role
        if site.residual is not None:
            self.residuals[adapter_name] = Residual(site.residual)
        width = self.in_features if site.residual is None else feature_sizes(site.residual)[0]
        # LaVIN: A Xavier-uniform, B and every bias zero; LoRA's A is Kaiming-uniform (a = √5), as in PEFT and Monkey.
        down = torch.empty(rank if row.shared_down else experts * rank, width)
        if row.shared_down:
            nn.init.xavier_uniform_(down)
        else:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.routed_A[adapter_name] = nn.Parameter(down)
        self.routed_B[adapter_name] = nn.Parameter(torch.zeros(experts, self.out_features, rank // groups))
        if placement.bias:
            self.routed_a[adapter_name] = nn.Parameter(torch.zeros(len(down)))
            self.routed_b[adapter_name] = nn.Parameter(torch.zeros(experts, self.out_features))
        if placement.learned_scale:
            self.routed_s[adapter_name] = nn.Parameter(torch.ones(experts))
        if row.router == "modality":
            self._add_modality_router(adapter_name, experts, site)
        elif row.router == "token":
            self._add_token_router(adapter_name, placement, site)
        device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        if device is not None and device.type != "meta" and self.routed_A[adapter_name].device.type != "meta":
            for name in self.adapter_layer_names:
                container = getattr(self, name)
                if adapter_name in container:
                    container[adapter_name] = nn.Parameter(container[adapter_name].data.to(device))
        self.set_adapter(self.active_adapters)

    def _router(self, experts: int) -> nn.Parameter:
        bound = 1 / math.sqrt(self.in_features)  # nn.Linear's default, as in LaVIN and MoE-LLaVA
        return nn.Parameter(torch.empty(experts, self.in_features).uniform_(-bound, bound))

    def _add_modality_router(self, adapter_name: str, experts: int, site: Site) -> None:
        bound = 1 / math.sqrt(self.in_features)
        self.routed_R[adapter_name] = self._router(experts)
        self.routed_c[adapter_name] = nn.Parameter(torch.empty(experts).uniform_(-bound, bound))
        if site.first is None:
            self.routed_modality[adapter_name] = nn.Parameter(torch.randn(site.modalities, self.in_features))
        self.shared[adapter_name] = (site.first or self).routed_modality

    def _add_token_router(self, adapter_name: str, placement: ResolvedPlacement, site: Site) -> None:
        if site.first is not None:
            self.mixtures[adapter_name] = site.first.mixtures[adapter_name]
            return
        assert placement.experts is not None
        assert placement.top_k is not None
        self.routed_R[adapter_name] = self._router(placement.experts)
        self.mixtures[adapter_name] = TokenRouter(
            self.routed_R, adapter_name, placement.top_k, placement.balance or 0.0
        )

    def routing_table(self, adapter_name: str) -> Tensor:
        """Weight of every expert for every modality, ``[M, E]``: w = softmax((R m̂ + c) / t), m̂ = m / rms(m)."""
        embedding = self.shared[adapter_name][adapter_name]
        unit = embedding * torch.rsqrt(embedding.square().mean(dim=-1, keepdim=True) + 1e-6)
        logits = nn.functional.linear(unit, self.routed_R[adapter_name], self.routed_c[adapter_name])
        return torch.softmax(logits / self.placements[adapter_name].temperature, dim=-1)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the base layer, with the active adapters' updates added."""
        names = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.placements]
        if names and self.placements[names[0]].row.reads == "output" and (norm := self._norm(x)) is not None:
            first, *names = names
            output = self._routed(first, x, x, norm=norm[0], eps=norm[1])
        elif not (args or kwargs) and self._together(names) and (base := as_frozen(self.base_layer, x)) is not None:
            update = update_of(x, **self._routing(names[0], x), **self._tensors(names[0]))
            return adapted_linears(x, [(base, update)])[0]
        else:
            output = self._base(x, *args, **kwargs)
        for name in names:
            output = self._updated(name, x, output)
        return output

    def _base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer; bitsandbytes' int8 product takes three dimensions, and experts side by side are a fourth."""
        folded = x.flatten(0, -3) if x.dim() > 3 else x
        output: Tensor = self.base_layer(folded, *args, **kwargs)
        return output.unflatten(0, x.shape[:-2]) if x.dim() > 3 else output

    def _norm(self, x: Tensor) -> tuple[Tensor, float] | None:
        """Weight and ε of a base layer that is an RMSNorm to be run together with its update; None for others.

        Together they keep one [tokens, D] for the backward, in the activations' dtype; alone Llama's norm keeps
        another in fp32. Taken where the norm's own code runs, unhooked, and our formula gives the same bits.
        """
        base = self.base_layer
        eps = getattr(base, "variance_epsilon", None)
        if eps is None or base.weight.requires_grad or base._forward_hooks or base._forward_pre_hooks:
            return None
        if "forward" in base.__dict__ or x.dtype != base.weight.dtype:
            return None
        kind = type(base)
        if kind not in _FOLDS:
            _FOLDS[kind] = _folds(base, eps)
        return (base.weight, eps) if _FOLDS[kind] else None

    def _together(self, names: list[str]) -> bool:
        """Whether a linear layer and its update may be one function: of one adapter that reads what the layer does."""
        if len(names) != 1 or names[0] in self.residuals:
            return False
        placement = self.placements[names[0]]
        return placement.row.reads == "input" and not placement.side_by_side

    def _updated(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        """``output`` with the update of adapter ``name``."""
        placement = self.placements[name]
        read = output if placement.row.reads == "output" else x
        if name in self.residuals:
            read = self.residuals[name].take()
        if placement.side_by_side:
            return self._side_by_side(name, read, output)
        return self._routed(name, read, output)

    def _routed(self, name: str, read: Tensor, output: Tensor, **norm: Any) -> Tensor:
        """``output`` with one update of what is ``read``."""
        return routed_update(output, read, **self._routing(name, read), **self._tensors(name), **norm)

    def _tensors(self, name: str) -> dict[str, Any]:
        """What every form of the update needs of adapter ``name``."""
        placement = self.placements[name]
        return {
            "down": self.routed_A[name],
            "up": self.routed_B[name],
            "down_bias": self.routed_a[name] if placement.bias else None,
            "up_bias": self.routed_b[name] if placement.bias else None,
            "groups": placement.groups or 1,
            "scale": placement.factor,
            "dropout": (placement.dropout or 0.0) if self.training else 0.0,
        }

    def _scales(self, name: str) -> Tensor | None:
        return self.routed_s.get(name)

    def _routing(self, name: str, x: Tensor) -> dict[str, Any]:
        """The experts' weights for ``x`` [batch, tokens, D], [batch, 1 or tokens, E], or [E] where all rows are alike;
        with a router by crop the rows' experts as well."""
        router, scales = self.placements[name].row.router, self._scales(name)
        if router is None:
            return {"weights": scales}
        if router == "crop":
            assert self.signal is not None
            return {"weights": scales, "index": self.signal.crop_rows(x.shape[0])}
        table = {"modality": self._by_modality, "visual": self._by_token_kind, "token": self._by_token}[router](name, x)
        return {"weights": table if scales is None else table * scales}

    def _by_modality(self, name: str, x: Tensor) -> Tensor:
        table = self.routing_table(name)
        if table.shape[0] == 1:  # a vision tower: whatever it sees is a picture
            return table[0]
        assert self.signal is not None
        if x.dim() == 2:  # OPT's feed-forward folds rows and tokens into one dimension
            return table[self.signal.folded(x.shape[0])]
        return table[self.signal.rows(x.shape[0])].unsqueeze(1)

    def _by_token_kind(self, name: str, x: Tensor) -> Tensor:
        assert self.signal is not None
        visual = self.signal.visual_folded(x.shape[0]) if x.dim() == 2 else self.signal.tokens(*x.shape[:2])
        return visual.unsqueeze(-1).to(x.dtype)

    def _by_token(self, name: str, x: Tensor) -> Tensor:
        weights, chosen = self._chosen(name, x)
        return (chosen * weights.unsqueeze(-1).to(x.dtype)).sum(dim=-2)

    def _chosen(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of each token's experts ``[batch, tokens, k]``, and which they are ``[batch, tokens, k, E]``."""
        mixture = self.mixtures[name]
        if self.roles[name] == "down":
            weights, index = mixture.current()
        else:
            real = self.signal.real if self.signal is not None and self.placements[name].part == "language" else None
            weights, index = mixture.route(x, real, training=self.training)
        return weights, nn.functional.one_hot(index, len(self.routed_B[name])).to(x.dtype)

    def _side_by_side(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        """One layer of a feed-forward whose experts stand side by side (see :mod:`.mixture`)."""
        weights, chosen = self._chosen(name, x)
        chosen = chosen.movedim(-2, 0)
        last, scales = self.roles[name] == "down", self._scales(name)
        chosen = chosen if scales is None else chosen * scales  # [k, batch, tokens, E]
        if not last:
            output = output.expand(len(chosen), *output.shape)
        results = routed_update(output, x, weights=chosen, **self._tensors(name))
        if not last:
            return results
        first = results[0]  # the weights' sum is 1; so written, equal results mix to themselves bitwise
        others = (results[1:] - first) * weights.movedim(-1, 0)[1:].unsqueeze(-1).to(first.dtype)
        return first + others.sum(dim=0)

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget one adapter here; PEFT calls it on every layer."""
        for kept in (self.placements, self.shared, self.mixtures, self.roles):
            kept.pop(adapter_name, None)
        if adapter_name in self.residuals:
            self.residuals.pop(adapter_name).forget()
        super().delete_adapter(adapter_name)

    def __repr__(self) -> str:
        return "routed." + super().__repr__()


_FOLDS: dict[type[nn.Module], bool] = {}
"""Class of norm → whether ``routed_update`` computes it bitwise."""


@torch.no_grad()
def _folds(norm: nn.Module, eps: float) -> bool:
    """Whether ``norm`` is Llama's RMSNorm to the bit (Gemma's 1 + w, say, is not)."""
    weight = torch.linspace(-2, 2, 64, dtype=torch.float16).to(torch.bfloat16)
    twin = copy.deepcopy(norm).to_empty(device="cpu")
    twin.weight = nn.Parameter(weight, requires_grad=False)
    x = torch.linspace(-3, 7, 64).square().sin().to(weight.dtype).view(1, 64)
    zero = weight.new_zeros(1, 64)
    ours = routed_update(x, x, zero, zero.view(1, 64, 1), norm=weight, eps=eps)
    return torch.equal(twin(x), ours)


class Residual:
    """What went into a norm in the current forward, for a layer after it; kept no longer than until it is taken."""

    def __init__(self, norm: nn.Module) -> None:
        self._hook = norm.register_forward_pre_hook(self._keep)
        self._kept: Tensor | None = None

    def take(self) -> Tensor:
        """The norm's input; the next one comes with the next forward."""
        assert self._kept is not None
        kept, self._kept = self._kept, None
        return kept

    def forget(self) -> None:
        """Look no more."""
        self._hook.remove()

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._kept = args[0]


def feature_sizes(base_layer: nn.Module) -> tuple[int, int]:
    """Width of what goes into and comes out of a norm or a linear layer."""
    weight = getattr(base_layer, "weight", None)
    if weight is not None and weight.dim() == 1:
        return weight.shape[0], weight.shape[0]
    d_in, d_out = _get_in_out_features(base_layer)
    if d_in is None or d_out is None:
        raise InputError(f"Cannot adapt a {type(base_layer).__name__}: it is neither a norm nor a linear layer.")
    return d_in, d_out
