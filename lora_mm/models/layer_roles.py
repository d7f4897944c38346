"""Maps roles to module paths inside a layer, for each kind of layer. Knows no models.

Roles are those of :class:`~.families.Stack`; the rows of :mod:`.families` say which kind a family's layers are.
"""

Path = str | tuple[str, ...]
"""A module path inside a layer; several if the layers of a stack differ: the first that exists is used."""

_LLAMA_FEED_FORWARD = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "mlp": "mlp"}
_FC_FEED_FORWARD = {"up": "mlp.fc1", "down": "mlp.fc2", "mlp": "mlp"}

LLAMA_LAYER: dict[str, Path] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    **_LLAMA_FEED_FORWARD,
}
"""Llama, Vicuna, Mistral, Qwen2 and 3, Gemma 1, SmolLM; Idefics' own language layers."""

# Gemma 3 has norms after attention and feed-forward too: post_attention_layernorm feeds only the sum.
GEMMA3_LAYER = {**LLAMA_LAYER, "ffn_norm": "pre_feedforward_layernorm"}

# GLM adds norms after attention and feed-forward (post_self_attn_layernorm, post_mlp_layernorm); not used here.
GLM4_LAYER: dict[str, Path] = {
    **{role: path for role, path in LLAMA_LAYER.items() if role not in ("gate", "up")},
    "gate_up": "mlp.gate_up_proj",
}

# About every fifth of Mllama's layers attends to the picture instead of the text, with other module names.
MLLAMA_LAYER: dict[str, Path] = {
    **LLAMA_LAYER,
    **{role: (f"self_attn.{role}_proj", f"cross_attn.{role}_proj") for role in ("q", "k", "v", "o")},
}

# These norms feed attention and feed-forward in the pre-norm models (OPT-2.7B and 6.7B, which BLIP-2 was trained with).
# OPT-350m is post-norm.
OPT_LAYER: dict[str, Path] = {
    "attn_norm": "self_attn_layer_norm",
    "ffn_norm": "final_layer_norm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "up": "fc1",
    "down": "fc2",
}

PERSIMMON_LAYER: dict[str, Path] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "qkv": "self_attn.query_key_value",
    "o": "self_attn.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
    "mlp": "mlp",
}

CLIP_LAYER: dict[str, Path] = {
    "attn_norm": "layer_norm1",
    "ffn_norm": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    **_FC_FEED_FORWARD,
}
"""CLIP, SigLIP, and the towers of Idefics 1 to 3 and SmolVLM."""

BLIP_LAYER: dict[str, Path] = {
    "attn_norm": "layer_norm1",
    "ffn_norm": "layer_norm2",
    "qkv": "self_attn.qkv",
    "o": "self_attn.projection",
    **_FC_FEED_FORWARD,
}

INTERNVIT_LAYER: dict[str, Path] = {
    "attn_norm": "layernorm_before",
    "ffn_norm": "layernorm_after",  # after the attention's sum, before the feed-forward
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "o": "attention.projection_layer",
    **_FC_FEED_FORWARD,
}

MLLAMA_VISION_LAYER: dict[str, Path] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    **_FC_FEED_FORWARD,
}

_QWEN_ATTENTION = {"attn_norm": "norm1", "ffn_norm": "norm2", "qkv": "attn.qkv", "o": "attn.proj"}
QWEN2_BLOCK: dict[str, Path] = {**_QWEN_ATTENTION, **_FC_FEED_FORWARD}
QWEN2_5_BLOCK: dict[str, Path] = {**_QWEN_ATTENTION, **_LLAMA_FEED_FORWARD}  # and GLM-4V's
QWEN3_BLOCK: dict[str, Path] = {**_QWEN_ATTENTION, "up": "mlp.linear_fc1", "down": "mlp.linear_fc2", "mlp": "mlp"}
