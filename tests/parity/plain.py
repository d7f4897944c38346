"""A LLaMA decoder and a vision tower in the plainest PyTorch, open where the adapters of the four systems stand.

They read the weights of a transformers model, with or without our adapters on it, and call none of its modules.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_mm.models.anatomy import find_layers
from tests.helpers.tiny import tiny_model

Linear = Callable[[nn.Module, Tensor], Tensor]
"""Applies a linear layer, with or without an adapter, to an input."""

Adapt = Callable[[str, Tensor], Tensor]
"""From the place of a norm, such as ``0.input_layernorm``, and its output to what is read instead."""


def get_frozen(module: Any) -> Any:
    """The base's own module inside an adapted layer."""
    return getattr(module, "base_layer", module)


def apply_linear(module: nn.Module, x: Tensor) -> Tensor:
    frozen = get_frozen(module)
    return F.linear(x, frozen.weight, frozen.bias)


def rms_norm(x: Tensor, module: nn.Module) -> Tensor:
    norm = get_frozen(module)
    return norm.weight * x / (x.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon).sqrt()


def layer_norm(x: Tensor, module: nn.Module) -> Tensor:
    norm = get_frozen(module)
    centred = x - x.mean(dim=-1, keepdim=True)
    return norm.weight * centred / (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt() + norm.bias


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Softmax attention; ``q``, ``k`` and ``v`` are [..., heads, tokens, d], ``seen`` is [tokens, tokens].

    Returns:
        ``[..., tokens, heads · d]``.
    """
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if seen is None else scores.masked_fill(~seen, -math.inf)
    return (scores.softmax(dim=-1) @ v).transpose(-2, -3).flatten(-2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position: the pair of entries i and i + d/2 turns by position · 10000^(-2i/d).

    LLaMA's original code turns neighbouring entries; the checkpoints of transformers have their rows in another order.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def unadapted(place: str, x: Tensor) -> Tensor:
    return x


def swiglu(mlp: nn.Module, x: Tensor, linear: Linear = apply_linear) -> Tensor:
    return linear(mlp.down_proj, F.silu(linear(mlp.gate_proj, x)) * linear(mlp.up_proj, x))


def decode(
    base: nn.Module,
    h: Tensor,
    *,
    adapt: Adapt = unadapted,
    linear: Linear = apply_linear,
    feed_forward: Linear | None = None,
    positions: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Compute the logits of a LLaVA's language model.

    Args:
        base: the LLaVA, with or without adapters.
        h: ``[tokens, D]``, what enters the first layer.
        adapt: adapts the output of every norm.
        linear: applies the linear layers.
        feed_forward: applies a layer's feed-forward to the output of its norm; None for SwiGLU.
        positions: ``[tokens]``; None for 0, 1, 2 and so on.
        seen: ``[tokens, tokens]``, whether a token (row) sees another; None if it sees itself and those before it.

    Returns:
        ``[tokens, vocabulary]``.
    """
    language = base.model.language_model
    positions = torch.arange(len(h)) if positions is None else positions
    seen = torch.ones(len(h), len(h), dtype=torch.bool).tril() if seen is None else seen
    for index, layer in enumerate(language.layers):
        attention = layer.self_attn
        x = adapt(f"{index}.input_layernorm", rms_norm(h, layer.input_layernorm))
        q, k, v = (linear(getattr(attention, f"{name}_proj"), x) for name in "qkv")
        q, k, v = (split_heads(part, part.shape[-1] // attention.head_dim) for part in (q, k, v))
        k, v = (part.repeat_interleave(len(q) // len(k), dim=0) for part in (k, v))  # grouped queries
        h = h + linear(attention.o_proj, attend(rotate(q, positions), rotate(k, positions), v, seen))
        x = adapt(f"{index}.post_attention_layernorm", rms_norm(h, layer.post_attention_layernorm))
        h = h + (feed_forward(layer.mlp, x) if feed_forward else swiglu(layer.mlp, x, linear))
    return F.linear(rms_norm(h, language.norm), base.lm_head.weight)


@dataclass(frozen=True)
class Tower:
    """Where the linear layers of a tower's layer are, and its activation."""

    inputs: tuple[str, ...]
    output: str
    act: Callable[[Tensor], Tensor]


TOWERS = {
    "llava": Tower(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.out_proj",
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "blip-2": Tower(("self_attn.qkv",), "self_attn.projection", F.gelu),
}
"""CLIP's tower, with separate q, k and v, and BLIP's, where they are one layer."""


def look(
    layer: nn.Module,
    x: Tensor,
    tower: Tower,
    *,
    adapt: Adapt = unadapted,
    linear: Linear = apply_linear,
    beside: Callable[[nn.Module, Tensor], Tensor | float] = lambda mlp, x: 0.0,
) -> Tensor:
    """Compute one layer of a tower.

    Args:
        layer: a layer of CLIP's or BLIP's tower, with or without adapters.
        x: ``[..., tokens, D]``.
        tower: where its parts are.
        adapt: adapts the output of the norm before attention.
        linear: applies the linear layers of attention.
        beside: what is added to the MLP's result, from the MLP and what enters the norm before it.
    """
    normed = adapt("layer_norm1", layer_norm(x, layer.layer_norm1))
    packed = torch.cat([linear(layer.get_submodule(path), normed) for path in tower.inputs], dim=-1)
    q, k, v = (split_heads(part, layer.self_attn.num_heads) for part in packed.chunk(3, dim=-1))
    middle = x + linear(layer.get_submodule(tower.output), attend(q, k, v))
    hidden = tower.act(apply_linear(layer.mlp.fc1, layer_norm(middle, layer.layer_norm2)))
    return middle + apply_linear(layer.mlp.fc2, hidden) + beside(layer.mlp, middle)


def widen(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pictures in fp64."""
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


@torch.no_grad()
def embed(batch: dict[str, Tensor]) -> list[Tensor]:
    """Get what enters the first layer of the tiny LLaVA's language model in fp64: ``[tokens, D]`` of each row, without
    its padding."""
    base, entered = tiny_model().double(), []
    base.model.language_model.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    base(**widen(batch))
    return [row[real] for row, real in zip(entered[0], batch["attention_mask"].bool(), strict=True)]


def run(model: peft.PeftModel, batch: dict[str, Tensor]) -> Tensor:
    """Run our model in fp64, all rows in one padded batch.

    Returns:
        The logits of the tokens of all rows, one after the other, without padding, ``[tokens, vocabulary]``.
    """
    logits: Tensor = model(**widen(batch), use_cache=False).logits
    return logits[batch["attention_mask"].bool()]


def run_tower(model: peft.PeftModel, batch: dict[str, Tensor]) -> tuple[list[nn.Module], Tensor, Tensor]:
    """Run our model in fp64.

    Returns:
        The layers of its tower that are read, what enters the first, and what the last gives, ``[rows, tokens, D]``.
    """
    base, states = model.get_base_model(), []
    layers = [base.get_submodule(path) for path in find_layers(base, "vision")]
    hooks = [
        layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0].detach())),
        layers[-1].register_forward_hook(
            lambda _, args, out: states.append(out if isinstance(out, Tensor) else out[0])
        ),
    ]
    model(**widen(batch), use_cache=False)
    for hook in hooks:
        hook.remove()
    return layers, *states
