"""The token router, which the linear layers of one feed-forward share: it chooses each token's experts.

The experts' feed-forwards run side by side along a leading dimension: the gate and up layers give one result per chosen
expert, the elementwise operations keep them apart, and the down layer mixes them. No token is dropped. Knows no
placement.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_mm.adapters.weights import AdapterWeight
from lora_mm.ops.autocast import without_autocast


class TokenRouter:
    """The routing of one feed-forward in the current forward.

    Attributes:
        router: its weight, [E, D].
        top_k: number of experts that a token goes to.
        balance_weight: weight of ``balance`` in the gradient.
        usage: ``[E]``, the tokens sent to each expert since the last :meth:`take_usage`.
        balance: the loss that keeps experts evenly used, of the last forward: E Σ F_e G_e with F the share of tokens
            whose first choice is e and G its mean probability; 1 when uniform, E when collapsed.
    """

    def __init__(self, router: AdapterWeight, top_k: int, balance_weight: float) -> None:
        self.router, self.top_k, self.balance_weight = router, top_k, balance_weight
        self.usage = torch.zeros(router.weight.shape[0], dtype=torch.long)
        self.balance: Tensor | None = None
        self._input: Tensor | None = None
        self._routes: tuple[Tensor, Tensor] | None = None

    def route(self, x: Tensor, real: Tensor | None, *, training: bool) -> tuple[Tensor, Tensor]:
        """Choose each token's experts, once for all layers that read this ``x``.

        Args:
            x: ``[batch, tokens, D]``, what the feed-forward reads.
            real: ``[batch, tokens]``, whether a token is not padding; None without padding.
            training: whether to add the gradient of ``balance``.

        Returns:
            Weights and indices of the experts, each ``[batch, tokens, k]``.
        """
        if self._routes is None or self._input is not x:
            with without_autocast(x):
                logits = F.linear(x.float(), self.router.weight.float())
            probabilities = logits.softmax(dim=-1)
            weights, index = probabilities.topk(self.top_k, dim=-1)
            weights = weights / weights.sum(dim=-1, keepdim=True)
            balance = self._compute_balance(probabilities, index, real)
            if training and self.balance_weight:
                weights = _AddLoss.apply(weights, balance, self.balance_weight)
            self.balance = balance.detach()
            self._input, self._routes = x, (weights, index)
        return self._routes

    def take_routes(self) -> tuple[Tensor, Tensor]:
        """Return the routes of the current feed-forward to its last layer, and forget them."""
        assert self._routes is not None
        routes, self._routes, self._input = self._routes, None, None
        return routes

    def take_usage(self) -> Tensor:
        """Return ``usage``, and reset it to zero."""
        usage, self.usage = self.usage, torch.zeros_like(self.usage)
        return usage

    def _compute_balance(self, probabilities: Tensor, index: Tensor, real: Tensor | None) -> Tensor:
        experts = probabilities.shape[-1]
        flat, chosen = probabilities.flatten(0, -2), index.flatten(0, -2)
        if real is not None:
            flat, chosen = flat[real.flatten()], chosen[real.flatten()]
        with torch.no_grad():
            first = torch.bincount(chosen[:, 0], minlength=experts) / max(1, len(chosen))
            self.usage = self.usage.to(chosen.device) + torch.bincount(chosen.flatten(), minlength=experts)
        return experts * (first * flat.mean(dim=0)).sum()


class _AddLoss(torch.autograd.Function):
    """Returns a tensor unchanged; in the backward, gives ``loss`` the gradient ``weight``.

    The loss is not an output of the layer, because reentrant gradient checkpointing would detach it.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor, weight: float) -> Tensor:
        ctx.weight, ctx.loss = weight, loss.detach()
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], torch.full_like(ctx.loss, ctx.weight), None


def find_token_routers(model: nn.Module) -> list[TokenRouter]:
    """Find the token routers of ``model``, each once."""
    modules = model.modules()
    routers = {id(router): router for module in modules for router in getattr(module, "token_routers", {}).values()}
    return list(routers.values())
