"""Keeps a norm's input for a later layer, and finds norms that run together with their update. Knows no adapter."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lora_mm.ops.lowrank import routed_update
from lora_mm.ops.update import Norm


class NormInput:
    """The input of a norm in the current forward, for a layer that runs later. It is kept only until it is taken.

    Args:
        norm: the norm whose input is kept.
    """

    def __init__(self, norm: nn.Module) -> None:
        self._hook = norm.register_forward_pre_hook(self._keep)
        self._input: Tensor | None = None

    def take(self) -> Tensor:
        """Return the norm's input, and forget it."""
        assert self._input is not None
        norm_input, self._input = self._input, None
        return norm_input

    def remove(self) -> None:
        """Remove the hook from the norm."""
        self._hook.remove()

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._input = args[0]


def find_foldable_norm(base: nn.Module, x: Tensor) -> Norm | None:
    """Get ``base`` as an RMSNorm that can run together with its update; None if it cannot.

    Together they save one tensor [tokens, D] for the backward, in the activations' dtype; Llama's norm alone saves
    another one in fp32. A norm is folded only if its own forward would run, without hooks, and our formula gives the
    same bits.

    Args:
        base: the base layer.
        x: its input.
    """
    module: Any = base
    eps = getattr(base, "variance_epsilon", None)
    if eps is None or module.weight.requires_grad or base._forward_hooks or base._forward_pre_hooks:
        return None
    if "forward" in base.__dict__ or x.dtype != module.weight.dtype:
        return None
    kind = type(base)
    if kind not in _IS_FOLDABLE:
        _IS_FOLDABLE[kind] = _is_llama_norm(base, eps)
    return Norm(module.weight, eps) if _IS_FOLDABLE[kind] else None


_IS_FOLDABLE: dict[type[nn.Module], bool] = {}
"""Class of norm → whether ``routed_update`` computes it to the bit."""


@torch.no_grad()
def _is_llama_norm(norm: nn.Module, eps: float) -> bool:
    """Whether ``norm`` is Llama's RMSNorm to the bit (Gemma's 1 + w is not)."""
    weight = torch.linspace(-2, 2, 64, dtype=torch.float16).to(torch.bfloat16)
    twin = copy.deepcopy(norm).to_empty(device="cpu")
    twin.weight = nn.Parameter(weight, requires_grad=False)
    x = torch.linspace(-3, 7, 64).square().sin().to(weight.dtype).view(1, 64)
    zero = weight.new_zeros(1, 64)
    ours = routed_update(x, x, zero, zero.view(1, 64, 1), norm=Norm(weight, eps), kernels="torch")
    return torch.equal(twin(x), ours)
