"""The methods, one row each: where a method may stand, what routes it, and its usual numbers. Knows no modules.

A new method of the field is a new row here, plus a router in ``layers`` if it routes by something new.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_ATTENTION = ("q", "k", "v", "o")
_FEED_FORWARD = ("gate", "up", "down")


@dataclass(frozen=True)
class Method:
    """One way to place and route low-rank updates.

    Attributes:
        reads: ``output`` adapts what the module returns (behind a norm: the block's input), ``input`` adds beside the
            module what it would read (beside a linear layer).
        router: what the experts' weights depend on; None for no routing.
        sites: name of a placement → roles (see ``Stack.roles``) that it adapts; roles a layer lacks are passed over.
        experts, groups, temperature, dropout, bias, alpha: the defaults of a :class:`~.config.Placement`.
    """

    summary: str
    reads: Literal["input", "output"]
    router: Literal["modality"] | None
    sites: Mapping[str, tuple[str, ...]]
    experts: int = 1
    groups: int = 1
    temperature: float = 1.0
    dropout: float = 0.0
    bias: bool = False
    alpha: float | None = None


METHODS: dict[str, Method] = {
    # LaVIN, "Cheap and Quick: Efficient Vision-Language Instruction Tuning for Large Language Models", section 3.
    "mma": Method(
        summary="mixture-of-modality adapters on a block's input (LaVIN)",
        reads="output",
        router="modality",
        sites={"attn": ("attn_norm",), "block": ("attn_norm", "ffn_norm")},
        experts=2,
        groups=2,
        temperature=10.0,
        dropout=0.1,
        bias=True,
    ),
    # Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models".
    "lora": Method(
        summary="low-rank updates beside linear layers (LoRA, QLoRA on a 4-bit base)",
        reads="input",
        router=None,
        sites={"qkv": ("q", "k", "v"), "attn": _ATTENTION, "ffn": _FEED_FORWARD, "all": _ATTENTION + _FEED_FORWARD},
        alpha=16.0,
    ),
}
