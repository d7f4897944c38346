"""Where the parts of a multimodal model are: one row of data a family. Knows module paths; knows no adapters.

Paths hold for transformers 5.2x; a test checks every row against a model built from its configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig

from lora_mm.errors import InputError, nearest

PARTS = ("vision", "connector", "language", "head")


@dataclass(frozen=True)
class Stack:
    """A run of equal layers.

    Attributes:
        layers: path of the ``ModuleList``.
        roles: what a layer holds, by its standard name: the norms that feed attention and feed-forward
            (``attn_norm``, ``ffn_norm``) and the linear layers (``q k v o``, ``gate up down``).
        depth: how many of the layers the model reads; None for all. A layer that is never read gets no gradient.
    """

    layers: str
    roles: Mapping[str, str]
    depth: Callable[[PretrainedConfig], int] | None = None


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model family, as paths from the model's root."""

    language: Stack
    vision: Stack
    parts: Mapping[str, str]
    """Path prefix of each part in :data:`PARTS`."""
    placeholders: Mapping[str, str]
    """Modality → name of the config attribute that holds the id of its placeholder token."""

    def stack(self, part: str) -> Stack:
        """The layers of ``part``; raises InputError for a part without layers."""
        stacks = {"language": self.language, "vision": self.vision}
        if part not in stacks:
            raise InputError(
                f"No layers in part '{part}': adapters go to 'language' or 'vision'.{nearest(part, [*stacks])}"
            )
        return stacks[part]


LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

CLIP_LAYER = {
    "attn_norm": "layer_norm1",
    "ffn_norm": "layer_norm2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def _llava_tower_depth(config: PretrainedConfig) -> int:
    """Layers of the tower below the deepest hidden state that the projector reads (hidden state 0 is the embedding)."""
    total: int = config.vision_config.num_hidden_layers
    chosen = config.vision_feature_layer
    chosen = [chosen] if isinstance(chosen, int) else chosen
    return max(index if index >= 0 else total + 1 + index for index in chosen)


FAMILIES: dict[str, Anatomy] = {
    "llava": Anatomy(
        language=Stack("model.language_model.layers", LLAMA_LAYER),
        vision=Stack("model.vision_tower.encoder.layers", CLIP_LAYER, depth=_llava_tower_depth),
        parts={
            "vision": "model.vision_tower",
            "connector": "model.multi_modal_projector",
            "language": "model.language_model",
            "head": "lm_head",
        },
        placeholders={"image": "image_token_id"},
    ),
}


def anatomy_of(model: nn.Module) -> Anatomy:
    """The row for ``model``, by its ``config.model_type``; raises InputError when the family is not described."""
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in FAMILIES:
        raise InputError(
            f"No anatomy for models of type '{model_type}'; described are: {', '.join(FAMILIES)}."
            f"{nearest(model_type, list(FAMILIES))}"
        )
    return FAMILIES[model_type]


def layer_modules(model: nn.Module, part: str, role: str) -> list[str]:
    """Paths of the modules that play ``role`` in the layers of ``part``, in order, as far as the model reads them."""
    stack = anatomy_of(model).stack(part)
    if role not in stack.roles:
        raise InputError(f"The layers of '{part}' have no '{role}'; they have: {', '.join(stack.roles)}.")
    total = len(model.get_submodule(stack.layers))
    depth = min(total, stack.depth(model.config)) if stack.depth else total
    return [f"{stack.layers}.{index}.{stack.roles[role]}" for index in range(depth)]


def part_of(model: nn.Module, name: str) -> str:
    """The part that the module or parameter called ``name`` belongs to; ``other`` when it is in none."""
    for part, prefix in anatomy_of(model).parts.items():
        if name == prefix or name.startswith(prefix + "."):
            return part
    return "other"


def modalities(model: nn.Module) -> tuple[str, ...]:
    """What a sample of this model can be: ``text``, then each modality whose placeholder token the model knows."""
    placeholders = anatomy_of(model).placeholders
    return ("text", *(name for name, key in placeholders.items() if getattr(model.config, key, None) is not None))
