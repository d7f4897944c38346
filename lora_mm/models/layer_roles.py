"""Names the roles of the modules inside a layer, by their names in transformers. Knows no models.

Roles are the norms that feed attention and feed-forward (``attn_norm``, ``ffn_norm``), the linear layers of both, and
the whole feed-forward (``mlp``, the only role that is not a leaf). A layer has some of them: separate linear layers or
fused ones (``qkv``, ``gate_up``), and in a mixture of experts those of the shared expert (``shared_…``). Attention
stands for whatever mixes tokens: a linear attention or a convolution has the roles of an attention's projections.
"""

from collections.abc import Callable, Mapping

_ATTENTIONS = ("self_attn", "attention", "attn", "cross_attn", "linear_attn", "conv")
_FEED_FORWARDS = ("mlp", "feed_forward", "ffn")
_SHARED_EXPERTS = tuple(
    f"{block}.{name}" for block in _FEED_FORWARDS for name in ("shared_expert", "shared_experts", "shared_mlp")
)


def _inside(blocks: tuple[str, ...], *names: str) -> tuple[str, ...]:
    return tuple(f"{block}.{name}" for block in blocks for name in names)


_GATE, _UP, _DOWN = (
    ("gate_proj", "w1"),
    ("up_proj", "w3", "fc1", "lin1", "linear_fc1", "dense_h_to_4h"),
    ("down_proj", "w2", "fc2", "lin2", "linear_fc2", "dense_4h_to_h"),
)

ROLE_PATHS: Mapping[str, tuple[str, ...]] = {
    "attn_norm": (
        *("input_layernorm", "layer_norm1", "norm1", "layernorm_before", "self_attn_layer_norm", "attention_norm"),
        *("operator_norm", "rms_norm1"),
    ),
    "ffn_norm": (
        *("pre_feedforward_layernorm", "post_attention_layernorm", "layer_norm2", "norm2", "layernorm_after"),
        *("final_layer_norm", "ffn_norm", "rms_norm2"),
    ),
    "q": _inside(_ATTENTIONS, "q_proj", "q"),
    "k": _inside(_ATTENTIONS, "k_proj", "k"),
    "v": _inside(_ATTENTIONS, "v_proj", "v"),
    # multi-head latent attention (DeepSeek-V2): down to a latent state, and up to the heads
    "q_latent": _inside(_ATTENTIONS, "q_a_proj"),
    "q_heads": _inside(_ATTENTIONS, "q_b_proj"),
    "kv_latent": _inside(_ATTENTIONS, "kv_a_proj_with_mqa"),
    "kv_heads": _inside(_ATTENTIONS, "kv_b_proj"),
    "qkv": _inside(_ATTENTIONS, "qkv", "qkv_proj", "query_key_value", "in_proj_qkv", "in_proj"),
    "o": _inside(_ATTENTIONS, "o_proj", "out_proj", "proj", "projection", "projection_layer", "dense"),
    "attn_gate": _inside(_ATTENTIONS, "gate_proj", "g_proj", "in_proj_z"),
    "decay": ("linear_attn.in_proj_a",),
    "beta": ("linear_attn.in_proj_b",),
    "gate": _inside(_FEED_FORWARDS, *_GATE),
    "up": (*_inside(_FEED_FORWARDS, *_UP), "fc1"),
    "gate_up": _inside(_FEED_FORWARDS, "gate_up_proj"),
    "down": (*_inside(_FEED_FORWARDS, *_DOWN), "fc2"),
    "mlp": _FEED_FORWARDS,
    "shared_gate": _inside(_SHARED_EXPERTS, *_GATE),
    "shared_up": _inside(_SHARED_EXPERTS, *_UP),
    "shared_down": _inside(_SHARED_EXPERTS, *_DOWN),
    "shared_weight": _inside(_FEED_FORWARDS, "shared_expert_gate"),
    "router": (*_inside(_FEED_FORWARDS, "gate", "router"), "router"),
    "experts": (*_inside(_FEED_FORWARDS, "experts"), "experts"),
}
"""Role → paths of its module inside a layer; the first that a layer has is the one."""

_FEEDS_THE_SUM = {"post_attention_layernorm": "post_feedforward_layernorm"}
"""Norm that feeds the feed-forward, unless the layer has this other norm too: then both norms feed the residual sum."""

NORM_READERS: Mapping[str, tuple[str, ...]] = {
    "attn_norm": ("q", "k", "v", "qkv", "q_latent", "kv_latent", "attn_gate", "decay", "beta"),
    "ffn_norm": ("gate", "up", "gate_up", "shared_gate", "shared_up", "shared_weight", "router", "experts"),
}
"""Role of a norm → roles of the modules that read its output. A layer without an ``ffn_norm`` runs attention and
feed-forward side by side, and its ``attn_norm`` feeds both."""


_READ_PICTURES = ("cross_attn.k_proj", "cross_attn.v_proj")
"""Ends of the paths of linear layers that read the tower's output, not the layer's norm."""


def find_roles(has: Callable[[str], bool]) -> dict[str, str]:
    """Find the roles of one layer: role → path inside the layer.

    Args:
        has: whether the layer has a module of this path.
    """
    roles: dict[str, str] = {}
    for role, paths in ROLE_PATHS.items():
        found = next((path for path in paths if has(path)), None)
        if found is not None and not (found in _FEEDS_THE_SUM and has(_FEEDS_THE_SUM[found])):
            roles[role] = f"{found}.linear" if has(f"{found}.linear") else found  # Gemma 4 clips around its layers
    return roles


def list_readers(roles: Mapping[str, str], norm: str) -> list[str]:
    """List the roles of a layer that read the output of one of its norms.

    Args:
        roles: the roles of the layer: role → path.
        norm: ``attn_norm`` or ``ffn_norm``.
    """
    readers = NORM_READERS[norm]
    if norm == "attn_norm" and "ffn_norm" not in roles:
        readers = (*readers, *NORM_READERS["ffn_norm"])
    return [role for role in readers if role in roles and not roles[role].endswith(_READ_PICTURES)]
