"""Where the parts of each model family are, as data: one row a family. Knows module paths; knows no torch.

Paths and facts hold for transformers 5.2x; a test checks every row against a model built from its configuration.
A new family is a new row here, and a tiny model and batch in ``tests/families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lora_mm.errors import InputError, suggest_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PARTS = ("vision", "connector", "language", "head")

Crops = Literal["none", "overview_first", "overview_last", "quarters"]

Path = str | tuple[str, ...]
"""A module path inside a layer; several where the layers of one stack differ: the first that a layer has counts."""


@dataclass(frozen=True)
class Stack:
    """A run of equal layers.

    Attributes:
        layers: paths of its ``ModuleList``; the layers of several count through in this order.
        roles: what a layer holds, by its standard name: the norms that feed attention and feed-forward (``attn_norm``,
            ``ffn_norm``), the linear layers (``q k v o``, ``gate up down``; fused ones are ``qkv`` and ``gate_up``),
            and the whole feed-forward module (``mlp``, the one role that is no leaf; OPT's layers have no such module).
        depth: how many of the layers the model reads; None for all. A layer that is never read gets no gradient.
    """

    layers: tuple[str, ...]
    roles: Mapping[str, Path]
    depth: Callable[[PretrainedConfig], int] | None = None


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model family, as paths from the model's root.

    Attributes:
        language: the language model's layers.
        vision: the vision tower's layers; None for a family without a tower.
        parts: path prefixes of each part in :data:`PARTS`; the longest prefix that fits decides. Some name a bare
            parameter (``image_newline``).
        placeholders: modality → what tells the id of its placeholder token: the name of a config attribute, or a
            function of the config that gives the id or None.
        visual_tokens: whether placeholders are replaced by what the tower saw, so that some of the language model's
            tokens are visual. False where the language model looks at the picture by cross-attention.
        crops: how the tower's rows are the crops of a picture: ``none`` (no tiling of its own), or tiles in reading
            order with the whole picture before (``overview_first``) or after them (``overview_last``), or always four
            with the whole picture after them (``quarters``). A picture that the processor did not tile is one row,
            its overview.
        framed: whether each picture's placeholders stand between marks of its own, so that the crops that our slicer
            makes of a picture are runs of their own too; then all pictures of a sample are sliced, or none.
        packed: whether several pictures or tiles share one row of the tower, so that no row is a picture or a crop.
        languages: the language stack by the language model's own type, where the family comes with several;
            ``language`` is then one of them.
        template: chat template of checkpoints that ship without one.
        generates_inside: path of the model whose ``generate`` writes, where the whole model's own forward is not
            called while it generates; None where it is.
    """

    language: Stack
    vision: Stack | None
    parts: Mapping[str, tuple[str, ...]]
    placeholders: Mapping[str, str | Callable[[PretrainedConfig], int | None]]
    visual_tokens: bool = True
    crops: Crops = "none"
    framed: bool = False
    packed: bool = False
    languages: Mapping[str, Stack] = field(default_factory=dict)
    template: str | None = None
    generates_inside: str | None = None

    def stack(self, part: str) -> Stack:
        """The layers of ``part``; raises InputError for a part without layers, or a family without that part."""
        stacks = {"language": self.language, "vision": self.vision}
        if part not in stacks:
            raise InputError(
                f"No layers in part '{part}': adapters go to 'language' or 'vision'.{suggest_name(part, [*stacks])}"
            )
        found = stacks[part]
        if found is None:
            name = next((name for name, row in FAMILIES.items() if row is self), "this model")
            raise InputError(f"{name} has no vision tower; place the adapter in part 'language'.")
        return found


# --- layers --------------------------------------------------------------------------------------------------------

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

# Gemma 3 has norms behind attention and feed-forward too: post_attention_layernorm feeds nothing but the sum.
GEMMA3_LAYER = {**LLAMA_LAYER, "ffn_norm": "pre_feedforward_layernorm"}

# GLM adds norms behind attention and feed-forward (post_self_attn_layernorm, post_mlp_layernorm); these two feed.
GLM4_LAYER: dict[str, Path] = {
    **{role: path for role, path in LLAMA_LAYER.items() if role not in ("gate", "up")},
    "gate_up": "mlp.gate_up_proj",
}

# Every fifth or so of Mllama's layers attends to the picture instead of the text, by modules of another name.
MLLAMA_LAYER: dict[str, Path] = {
    **LLAMA_LAYER,
    **{role: (f"self_attn.{role}_proj", f"cross_attn.{role}_proj") for role in ("q", "k", "v", "o")},
}

# The norms feed in the pre-norm models (OPT-2.7B, 6.7B, all that BLIP-2 was trained with); OPT-350m is post-norm.
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
    "ffn_norm": "layernorm_after",  # behind the attention's sum, before the feed-forward
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


def _feature_depth(config: PretrainedConfig) -> int:
    """Layers of the tower below the deepest hidden state that the projector reads (hidden state 0 is the embedding)."""
    total: int = config.vision_config.num_hidden_layers
    chosen = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", total))  # VipLLaVA's
    chosen = [chosen] if isinstance(chosen, int) else chosen
    return max(index if index >= 0 else total + 1 + index for index in chosen)


def _idefics_image_token(config: PretrainedConfig) -> int | None:
    """``image_token_id`` if given, else ``vocab_size + 1``, the second added token: ``<image>``."""
    # The config class knows no such id: ``load_base`` asks the processor. For a model that was loaded otherwise: of the
    # tokens added behind the vocabulary <fake_token_around_image> is the first and <image> the second, as in Idefics2
    # (32000 and 32001).
    given: int | None = getattr(config, "image_token_id", None)
    if given is None and config.additional_vocab_size >= 2:
        return int(config.vocab_size) + 1
    return given


def _plain(opening: str, turn: str, mark: str = "<image>") -> str:
    """Chat template of a family that was trained on questions and answers, without names of who speaks.

    Args:
        opening: how a text begins, in Jinja; PICTURES stands for a mark for each picture.
        turn: what parts the answer from the question.
        mark: of a picture.
    """
    parts = "{% for message in messages %}{% for part in message['content'] if part['type'] == 'KIND' %}"
    pictures = parts.replace("KIND", "image") + mark + "{% endfor %}{% endfor %}"
    words = (
        parts.replace("KIND", "text")
        + "{{ part['text'] }}{% endfor %}{% if message['role'] == 'user' %}{{ TURN }}{% endif %}{% endfor %}"
    )
    return opening.replace("PICTURES", pictures) + words.replace("TURN", repr(turn))


# --- families ------------------------------------------------------------------------------------------------------

_IMAGE = {"image": "image_token_id"}
_IMAGE_AND_VIDEO = {"image": "image_token_id", "video": "video_token_id"}
_LANGUAGE = Stack(("model.language_model.layers",), LLAMA_LAYER)
_PICTURES_FIRST = _plain("PICTURES{{ bos_token }}", "\n")


def _llava_parts(*connector: str) -> dict[str, tuple[str, ...]]:
    return {
        "vision": ("model.vision_tower",),
        "connector": ("model.multi_modal_projector", *connector),
        "language": ("model.language_model",),
        "head": ("lm_head",),
    }


def _qwen(block: Mapping[str, Path], *connector: str) -> Anatomy:
    # The tower reads one long row of patches, all pictures of the batch behind each other: no row is a crop.
    return Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.visual.blocks",), block),
        parts={
            "vision": ("model.visual",),
            "connector": ("model.visual.merger", *connector),
            "language": ("model.language_model",),
            "head": ("lm_head",),
        },
        placeholders=_IMAGE_AND_VIDEO,
        packed=True,
    )


def _idefics3() -> Anatomy:
    return Anatomy(
        language=Stack(("model.text_model.layers",), LLAMA_LAYER),
        vision=Stack(("model.vision_model.encoder.layers",), CLIP_LAYER),
        parts={
            "vision": ("model.vision_model",),
            "connector": ("model.connector",),
            "language": ("model.text_model",),
            "head": ("lm_head",),
        },
        # A video's frames stand on image placeholders.
        placeholders=_IMAGE,
        # split_images: tiles by rows, then the global image.
        crops="overview_last",
    )


def _blip() -> Anatomy:
    opt = Stack(("language_model.model.decoder.layers",), OPT_LAYER)
    return Anatomy(
        language=opt,
        vision=Stack(("vision_model.encoder.layers",), BLIP_LAYER),
        parts={
            "vision": ("vision_model",),
            "connector": ("qformer", "query_tokens", "language_projection"),
            "language": ("language_model",),
            "head": ("language_model.lm_head",),
        },
        placeholders=_IMAGE,
        template=_PICTURES_FIRST,
        languages={"opt": opt, "llama": Stack(("language_model.model.layers",), LLAMA_LAYER)},
        generates_inside="language_model",
    )


FAMILIES: dict[str, Anatomy] = {
    "llava": Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.vision_tower.encoder.layers",), CLIP_LAYER, depth=_feature_depth),
        parts=_llava_parts(),
        placeholders=_IMAGE,
    ),
    "llava_next": Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.vision_tower.encoder.layers",), CLIP_LAYER, depth=_feature_depth),
        parts=_llava_parts("model.image_newline"),
        placeholders=_IMAGE,
        # get_image_patches: the resized picture, then the tiles; pack_image_features reads row 0 as the base image.
        crops="overview_first",
    ),
    "llava_onevision": Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.vision_tower.encoder.layers",), CLIP_LAYER, depth=_feature_depth),
        parts=_llava_parts("model.image_newline"),
        placeholders=_IMAGE_AND_VIDEO,
        # As LLaVA-NeXT; a picture of several in one sample (batch_num_images) is not tiled, nor is a video's frame.
        crops="overview_first",
    ),
    "qwen2_vl": _qwen(QWEN2_BLOCK),
    "qwen2_5_vl": _qwen(QWEN2_5_BLOCK),
    # deepstack_visual_indexes adds what some blocks give to early language layers; the last block is read as well.
    "qwen3_vl": _qwen(QWEN3_BLOCK, "model.visual.deepstack_merger_list"),
    "glm4v": Anatomy(
        language=Stack(("model.language_model.layers",), GLM4_LAYER),
        vision=Stack(("model.visual.blocks",), QWEN2_5_BLOCK),
        parts={
            "vision": ("model.visual",),
            "connector": ("model.visual.merger", "model.visual.downsample"),
            "language": ("model.language_model",),
            "head": ("lm_head",),
        },
        # A video's frames stand on image placeholders between these marks; video_token_id never reaches the model.
        placeholders={"image": "image_token_id", "video": "video_start_token_id"},
        packed=True,
    ),
    "internvl": Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.vision_tower.encoder.layer",), INTERNVIT_LAYER, depth=_feature_depth),
        parts=_llava_parts(),
        # A video's frames stand on image placeholders.
        placeholders=_IMAGE,
        # crop_image_to_patches: the tiles, then the thumbnail, which a picture of one tile does without.
        crops="overview_last",
    ),
    # Open Flamingo: gated cross-attention between the language layers; no token is replaced.
    "idefics": Anatomy(
        language=Stack(("model.layers",), LLAMA_LAYER),
        vision=Stack(("model.vision_model.encoder.layers",), CLIP_LAYER),
        parts={
            "vision": ("model.vision_model",),
            "connector": ("model.perceiver_resampler", "model.gated_cross_attn_layers"),
            "language": ("model.layers", "model.norm", "model.embed_tokens"),
            "head": ("lm_head",),
        },
        placeholders={"image": _idefics_image_token},
        visual_tokens=False,
        template=_plain("{{ bos_token }}PICTURES", "\n"),
    ),
    "idefics2": Anatomy(
        language=Stack(("model.text_model.layers",), LLAMA_LAYER),
        vision=Stack(("model.vision_model.encoder.layers",), CLIP_LAYER),
        parts={
            "vision": ("model.vision_model",),
            "connector": ("model.connector",),
            "language": ("model.text_model",),
            "head": ("lm_head",),
        },
        placeholders=_IMAGE,
        # split_images: four quarters, then the whole picture; where the processor's do_image_splitting is on.
        crops="quarters",
    ),
    "idefics3": _idefics3(),
    "smolvlm": _idefics3(),
    "blip-2": _blip(),
    "instructblip": _blip(),
    "paligemma": Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.vision_tower.encoder.layers",), CLIP_LAYER),
        parts=_llava_parts(),
        placeholders=_IMAGE,
        template=_PICTURES_FIRST,
    ),
    "gemma3": Anatomy(
        language=Stack(("model.language_model.layers",), GEMMA3_LAYER),
        vision=Stack(("model.vision_tower.encoder.layers",), CLIP_LAYER),
        parts=_llava_parts(),
        placeholders=_IMAGE,
        # Pan-and-scan crops (off by default) stand in the prompt like pictures of their own: nothing tells them apart.
        framed=True,
    ),
    # No tower: patches are projected straight into the language model.
    "fuyu": Anatomy(
        language=Stack(("model.language_model.layers",), PERSIMMON_LAYER),
        vision=None,
        parts={
            "connector": ("model.vision_embed_tokens",),
            "language": ("model.language_model",),
            "head": ("lm_head",),
        },
        placeholders=_IMAGE,
        template=_plain("PICTURES<s>", "<0x04>", mark="|SPEAKER|"),
    ),
    "mllama": Anatomy(
        language=Stack(("model.language_model.layers",), MLLAMA_LAYER),
        # Some layers' states are read from the middle too (intermediate_layers_indices); all are read at the end.
        vision=Stack(
            ("model.vision_model.transformer.layers", "model.vision_model.global_transformer.layers"),
            MLLAMA_VISION_LAYER,
        ),
        parts={
            "vision": ("model.vision_model",),
            "connector": ("model.multi_modal_projector",),
            "language": ("model.language_model",),
            "head": ("lm_head",),
        },
        placeholders=_IMAGE,
        visual_tokens=False,
        # A row of the tower is a picture: its tiles, up to max_num_tiles, behind each other; there is no overview.
        packed=True,
    ),
}


def match_part(parts: Mapping[str, Sequence[str]], name: str) -> str:
    """The one of ``parts`` (see :class:`Anatomy`) that the module or parameter called ``name`` is in, or ``other``."""
    fitting = [
        (len(prefix), part)
        for part, prefixes in parts.items()
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    return max(fitting, default=(0, "other"))[1]


def find_family(model_type: str) -> Anatomy:
    """The row of a model type.

    Raises:
        InputError: for a type without a row; names the nearest one that has one, and the ways on.
    """
    if model_type not in FAMILIES:
        raise InputError(
            f"No anatomy for models of type '{model_type}'; described are: {', '.join(FAMILIES)}."
            f"{suggest_name(model_type, list(FAMILIES))}",
            "Take a base of one of these types (`lora-mm models list`), or describe this one in the recipe: "
            "base.anatomy={like: TYPE} if its modules are named as another's, with what differs beside it "
            "(`lora-mm models show TYPE` prints what there is to say).",
        )
    return FAMILIES[model_type]


def register_family(
    model_type: str,
    *,
    like: str | None = None,
    language: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    parts: Mapping[str, list[str]] | None = None,
    placeholders: Mapping[str, str] | None = None,
    **facts: Any,
) -> Anatomy:
    """Add a row for a model type, in this process: from a recipe, or for a model of one's own.

    Args:
        model_type: as the model's config names it; a row it has already is replaced.
        like: the type whose row holds where nothing else is said.
        language, vision: ``layers``, the paths of the layers' lists, and ``roles``, as in :class:`Stack`.
        parts, placeholders: as in :class:`Anatomy`; ``parts`` replace those of the same name.
        facts: the other fields of :class:`Anatomy`.

    Raises:
        InputError: for a ``like`` without a row, or without it where the language layers, the parts or the placeholders
            are not said.
    """
    said = {
        "language": _stack(language),
        "vision": _stack(vision),
        "parts": {part: tuple(paths) for part, paths in (parts or {}).items()},
        "placeholders": placeholders,
        **facts,
    }
    given = {name: value for name, value in said.items() if value}
    given |= {name: value for name, value in facts.items() if value is False}
    if like is not None:
        row = find_family(like)
        given["parts"] = {**row.parts, **given.get("parts", {})}
        if "language" in given:
            given["languages"] = {}
        row = replace(row, **given)
    else:
        missing = [name for name in ("language", "parts", "placeholders") if name not in given]
        if missing:
            raise InputError(f"base.anatomy: without `like`, {', '.join(missing)} must be described.")
        row = Anatomy(**{"vision": None, **given})
    FAMILIES[model_type] = row
    return row


def _stack(fields: Mapping[str, Any] | None) -> Stack | None:
    return Stack(tuple(fields["layers"]), dict(fields["roles"])) if fields else None
