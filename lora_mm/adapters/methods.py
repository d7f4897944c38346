"""The methods, one row each: where a method can be placed, what routes it, and its defaults. Knows no modules.

A new method is a new row here, and a router in ``layers`` if it routes by something new.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Router = Literal["modality", "visual", "crop", "token"]

_QKV = ("q", "k", "v", "qkv")
_ATTENTION = (*_QKV, "q_latent", "q_heads", "kv_latent", "kv_heads", "attn_gate", "o")
_FEED_FORWARD = ("gate", "up", "gate_up", "down")
_SHARED_EXPERT = ("shared_gate", "shared_up", "shared_down")
_LINEAR = {
    "attn": _ATTENTION,
    "qkv": _QKV,
    "ffn": _FEED_FORWARD + _SHARED_EXPERT,
    "all": _ATTENTION + _FEED_FORWARD + _SHARED_EXPERT,
}
"""Sites among the linear layers. A layer has some of their roles (see :mod:`lora_mm.models.layer_roles`)."""


@dataclass(frozen=True)
class Method:
    """One way to place and route low-rank updates.

    Attributes:
        summary: one line for people.
        reads: what the update is computed from: the module's ``output`` (for a norm, that is the block's input) or its
            ``input`` (for an update beside a linear layer).
        router: what the weights of the experts depend on; None for no routing.
        sites: site → roles (see ``layer_roles``) that it adapts; roles that a layer lacks are skipped. The first site
            is the default.
        parts: where the method can be placed; the first is the default.
        residual: role → the norm whose input the update reads in place of the module's own. Beside the last linear
            layer of an MLP, an update of the input of the norm before the MLP is parallel to the whole MLP.
        shared_down: whether the experts share one down-projection.
        experts, groups, temperature, dropout, drops, bias, alpha, learned_scale, top_k, combine, balance, tied_qkv,
            marks: defaults of the :class:`~.placement.Placement` fields of these names.
    """

    summary: str
    reads: Literal["input", "output"]
    router: Router | None
    sites: Mapping[str, tuple[str, ...]]
    parts: tuple[str, ...] = ("language", "vision")
    residual: Mapping[str, str] = field(default_factory=dict)
    shared_down: bool = False
    experts: int = 1
    groups: int = 1
    temperature: float = 1.0
    dropout: float = 0.0
    drops: Literal["hidden", "input"] = "hidden"
    bias: bool = False
    alpha: float | None = None
    learned_scale: bool = False
    top_k: int = 1
    combine: Literal["output", "weight"] = "output"
    balance: float = 0.0
    tied_qkv: bool = False
    marks: bool = False


METHODS: dict[str, Method] = {
    # LaVIN, "Cheap and Quick: Efficient Vision-Language Instruction Tuning for Large Language Models", section 3.
    "mma": Method(
        summary="mixture-of-modality adapters on a block's input (LaVIN)",
        reads="output",
        router="modality",
        sites={"attn": ("attn_norm",), "block": ("attn_norm", "ffn_norm")},
        shared_down=True,
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
        sites=_LINEAR,
        drops="input",  # as in PEFT
        alpha=16.0,
    ),
    # Li et al., "Monkey: Image Resolution and Text Label Are Important Things for Large Multi-modal Models", section 3.
    "crop_lora": Method(
        summary="one LoRA for each crop of a picture, none for its overview (Monkey)",
        reads="input",
        router="crop",
        sites={"attn": _ATTENTION, "mlp": ("down",), "block": (*_ATTENTION, "down")},
        parts=("vision",),
        residual={"down": "ffn_norm"},
        experts=4,
        dropout=0.05,
        learned_scale=True,
    ),
    # Wang et al., "CogVLM", section 2.2, at low rank; Dong et al., "InternLM-XComposer2", section 3.2 (Partial LoRA).
    "visual_expert": Method(
        summary="low-rank updates for visual tokens only (CogVLM, Partial LoRA)",
        reads="input",
        router="visual",
        sites=_LINEAR,
        parts=("language",),
        dropout=0.05,
    ),
    # Lin et al., "MoE-LLaVA: Mixture of Experts for Large Vision-Language Models", section 3.
    "moe_lora": Method(
        summary="each token's feed-forward through the top k of several LoRA experts (MoE-LLaVA)",
        reads="input",
        router="token",
        sites={"ffn": _FEED_FORWARD},
        parts=("language",),
        experts=4,
        top_k=2,
        balance=0.01,
    ),
}
