"""Which experts a token goes to: the router that the linear layers of one feed-forward share. Knows no placement.

The experts' feed-forwards run side by side along a leading dimension: the layers that widen give one result per chosen
expert, whatever is elementwise between passes it on, and the layer that narrows mixes them. No token is dropped.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_mm.ops.autocast import without_autocast


class TokenRouter:
    """The routing of one feed-forward in the current forward.

    Attributes:
        routers: container of the router's weights, ``routers[name]`` [E, D].
        top_k: experts that a token goes to.
        use: ``[E]``, how many tokens were sent to each expert since :meth:`taken` was last called.
        balance: the loss that keeps experts evenly used, of the last forward: E Σ F_e G_e with F the share of tokens
            whose first choice is e and G its mean probability; 1 when uniform, E when collapsed.
        weight: of ``balance`` in the gradient.
    """

    def __init__(self, routers: nn.ParameterDict, name: str, top_k: int, weight: float) -> None:
        self.routers, self.name, self.top_k, self.weight = routers, name, top_k, weight
        self.use = torch.zeros(routers[name].shape[0], dtype=torch.long)
        self.balance: Tensor | None = None
        self._read: Tensor | None = None
        self._routes: tuple[Tensor, Tensor] | None = None

    def route(self, x: Tensor, real: Tensor | None, *, training: bool) -> tuple[Tensor, Tensor]:
        """Weights and indices of each token's experts, ``[batch, tokens, k]``; the same for all who read this ``x``.

        Args:
            x: ``[batch, tokens, D]``, what the feed-forward reads.
            real: ``[batch, tokens]``, whether a token is no padding; None when all are.
            training: whether the balance's gradient is added.
        """
        if self._routes is None or self._read is not x:
            with without_autocast(x):
                logits = F.linear(x.float(), self.routers[self.name].float())
            probabilities = logits.softmax(dim=-1)
            weights, index = probabilities.topk(self.top_k, dim=-1)
            weights = weights / weights.sum(dim=-1, keepdim=True)
            balance = self._balance(probabilities, index, real)
            if training and self.weight:
                weights = _WithLoss.apply(weights, balance, self.weight)
            self.balance = balance.detach()
            self._read, self._routes = x, (weights, index)
        return self._routes

    def current(self) -> tuple[Tensor, Tensor]:
        """The routes of the feed-forward now running; they are forgotten with this call, its last."""
        assert self._routes is not None
        routes, self._routes, self._read = self._routes, None, None
        return routes

    def taken(self) -> Tensor:
        """``use``, which starts again at zero."""
        use, self.use = self.use, torch.zeros_like(self.use)
        return use

    def _balance(self, probabilities: Tensor, index: Tensor, real: Tensor | None) -> Tensor:
        experts = probabilities.shape[-1]
        flat, chosen = probabilities.flatten(0, -2), index.flatten(0, -2)
        if real is not None:
            flat, chosen = flat[real.flatten()], chosen[real.flatten()]
        with torch.no_grad():
            first = torch.bincount(chosen[:, 0], minlength=experts) / max(1, len(chosen))
            self.use = self.use.to(chosen.device) + torch.bincount(chosen.flatten(), minlength=experts)
        return experts * (first * flat.mean(dim=0)).sum()


class _WithLoss(torch.autograd.Function):
    """Passes a tensor on, and sends its loss a gradient of its weight on the way back.

    So the loss needs no way out of the layer, which gradient checkpointing with re-entry does not have.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor, weight: float) -> Tensor:
        ctx.weight, ctx.like = weight, loss.detach()
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], torch.full_like(ctx.like, ctx.weight), None


def find_token_routers(model: nn.Module) -> list[TokenRouter]:
    """Every feed-forward's routing in ``model``, each once."""
    found = {id(one): one for module in model.modules() for one in getattr(module, "mixtures", {}).values()}
    return list(found.values())
