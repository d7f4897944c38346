"""Describes where the parts of each model family are, one row a family. Knows module paths; knows no torch.

Paths and facts hold for transformers 5.2x; a test checks every row against a model built from its configuration.
A new family is a new row here, and a tiny model and batch in ``tests/helpers/families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lora_mm.errors import InputError, suggest_name
from lora_mm.models.chat_template import write_plain_template
from lora_mm.models.layer_roles import (
    BLIP_LAYER,
    CLIP_LAYER,
    GEMMA3_LAYER,
    GLM4_LAYER,
    INTERNVIT_LAYER,
    LLAMA_LAYER,
    MLLAMA_LAYER,
    MLLAMA_VISION_LAYER,
    OPT_LAYER,
    PERSIMMON_LAYER,
    QWEN2_5_BLOCK,
    QWEN2_BLOCK,
    QWEN3_BLOCK,
    Path,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PARTS = ("vision", "connector", "language", "head")

Crops = Literal["none", "overview_first", "overview_last", "quarters"]


@dataclass(frozen=True)
class Stack:
    """A stack of layers of one kind.

    Attributes:
        layers: path of its ``ModuleList``, or of several, whose layers are numbered consecutively.
        roles: role → path inside a layer. Roles are the norms that feed attention and feed-forward (``attn_norm``,
            ``ffn_norm``), the linear layers (``q k v o``, ``gate up down``; fused ones are ``qkv`` and ``gate_up``),
            and the whole feed-forward module (``mlp``, the only role that is not a leaf; OPT's layers have none).
        depth: number of layers that the model reads; None for all. A layer that is never read gets no gradient.
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
        parts: part in :data:`PARTS` → path prefixes of its modules; the longest prefix that matches decides. Some
            prefixes name a bare parameter (``image_newline``).
        placeholders: modality → where the id of its placeholder token is: the name of a config attribute, or a function
            of the config that returns the id or None.
        visual_tokens: whether placeholders are replaced by the tower's features, so that some of the language model's
            tokens are visual. False if the language model attends to the picture by cross-attention.
        crops: how the tower's rows are the crops of a picture: ``none`` (no tiling of its own), or tiles in reading
            order with the whole picture before (``overview_first``) or after them (``overview_last``), or always four
            tiles with the whole picture after them (``quarters``). A picture that the processor did not tile is one
            row, its overview.
        framed: whether marker tokens enclose the placeholders of each picture, so that each crop that our slicer makes
            is a separate run of placeholders. All pictures of a sample are then sliced, or none.
        packed: whether several pictures or tiles share one row of the tower, so that no row is a picture or a crop.
        languages: type of the language model → its stack, if the family has several types; ``language`` is one of
            them.
        template: chat template for checkpoints without one.
        generates_inside: path of the inner model that generates, if generation does not call the forward of the whole
            model; None if it does.
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
        """The layers of ``part`` (``language`` or ``vision``).

        Raises:
            InputError: the part has no layers, or the family does not have it.
        """
        stacks = {"language": self.language, "vision": self.vision}
        if part not in stacks:
            raise InputError(
                f"No layers in part '{part}': adapters go to 'language' or 'vision'.{suggest_name(part, [*stacks])}"
            )
        stack = stacks[part]
        if stack is None:
            name = next((name for name, row in FAMILIES.items() if row is self), "this model")
            raise InputError(f"{name} has no vision tower; place the adapter in part 'language'.")
        return stack


def _feature_depth(config: PretrainedConfig) -> int:
    """Layers of the tower below the deepest hidden state that the projector reads (hidden state 0 is the embedding)."""
    total: int = config.vision_config.num_hidden_layers
    read = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", total))  # VipLLaVA's
    indices = [read] if isinstance(read, int) else read
    return max(index if index >= 0 else total + 1 + index for index in indices)


def _idefics_image_token(config: PretrainedConfig) -> int | None:
    """``image_token_id`` if given, else ``vocab_size + 1``, the second added token: ``<image>``."""
    # The config class has no such id, so ``load_base`` takes it from the processor. For a model loaded in another way:
    # of the tokens added after the vocabulary, <fake_token_around_image> is the first and <image> the second, as in
    # Idefics2 (32000 and 32001).
    given: int | None = getattr(config, "image_token_id", None)
    if given is None and config.additional_vocab_size >= 2:
        return int(config.vocab_size) + 1
    return given


# --- families ------------------------------------------------------------------------------------------------------

_IMAGE = {"image": "image_token_id"}
_IMAGE_AND_VIDEO = {"image": "image_token_id", "video": "video_token_id"}
_LANGUAGE = Stack(("model.language_model.layers",), LLAMA_LAYER)
_PICTURES_FIRST = write_plain_template(pictures_first=True)


def _llava_parts(*connector: str) -> dict[str, tuple[str, ...]]:
    return {
        "vision": ("model.vision_tower",),
        "connector": ("model.multi_modal_projector", *connector),
        "language": ("model.language_model",),
        "head": ("lm_head",),
    }


def _qwen(block: Mapping[str, Path], *connector: str) -> Anatomy:
    # The tower reads the patches of all pictures in the batch as one long row: no row is a crop.
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
        # The frames of a video use image placeholders.
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
        # As LLaVA-NeXT; neither several pictures in one sample (batch_num_images) nor a video's frames are tiled.
        crops="overview_first",
    ),
    "qwen2_vl": _qwen(QWEN2_BLOCK),
    "qwen2_5_vl": _qwen(QWEN2_5_BLOCK),
    # deepstack_visual_indexes adds outputs of some blocks to early language layers; the last block is read as well.
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
        # The frames of a video use image placeholders between these marks; video_token_id never reaches the model.
        placeholders={"image": "image_token_id", "video": "video_start_token_id"},
        packed=True,
    ),
    "internvl": Anatomy(
        language=_LANGUAGE,
        vision=Stack(("model.vision_tower.encoder.layer",), INTERNVIT_LAYER, depth=_feature_depth),
        parts=_llava_parts(),
        # The frames of a video use image placeholders.
        placeholders=_IMAGE,
        # crop_image_to_patches: the tiles, then the thumbnail, which a picture of one tile lacks.
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
        template=write_plain_template(),
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
        # Pan-and-scan crops (off by default) look like separate pictures in the prompt: nothing tells them apart.
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
        template=write_plain_template(bos="<s>", pictures_first=True, end="<0x04>", mark="|SPEAKER|"),
    ),
    "mllama": Anatomy(
        language=Stack(("model.language_model.layers",), MLLAMA_LAYER),
        # The states of some layers are read too (intermediate_layers_indices); all layers are read at the end.
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
        # A row of the tower is a picture: its tiles, up to max_num_tiles, in sequence. There is no overview.
        packed=True,
    ),
}


def match_part(parts: Mapping[str, Sequence[str]], name: str) -> str:
    """Find the part that a module or parameter belongs to; ``other`` when it is in none.

    Args:
        parts: part → path prefixes, as in :class:`Anatomy`.
        name: path of the module or parameter.
    """
    matches = [
        (len(prefix), part)
        for part, prefixes in parts.items()
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    return max(matches, default=(0, "other"))[1]


def find_family(model_type: str) -> Anatomy:
    """Find the row of a model type.

    Raises:
        InputError: the type has no row; suggests the nearest type, and how to describe this one.
    """
    if model_type not in FAMILIES:
        raise InputError(
            f"No anatomy for models of type '{model_type}'; known types: {', '.join(FAMILIES)}."
            f"{suggest_name(model_type, list(FAMILIES))}",
            "Use a base of one of these types (`lora-mm models list`), or describe this one in the recipe: "
            "base.anatomy={like: TYPE} plus what differs from that type "
            "(`lora-mm models show TYPE` prints a type's description).",
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
    """Add a row for a model type, in this process only.

    Args:
        model_type: as in the model's config; an existing row of the type is replaced.
        like: the type whose row gives the fields that are not set here.
        language: the language layers: ``layers`` and ``roles``, as in :class:`Stack`.
        vision: the vision tower's layers, in the same form.
        parts: as in :class:`Anatomy`; they replace the parts of the same name.
        placeholders: as in :class:`Anatomy`.
        facts: the other fields of :class:`Anatomy`.

    Returns:
        The new row.

    Raises:
        InputError: ``like`` has no row; or, without ``like``, the language layers, the parts or the placeholders are
            missing.
    """
    fields = {
        "language": _make_stack(language),
        "vision": _make_stack(vision),
        "parts": {part: tuple(paths) for part, paths in (parts or {}).items()},
        "placeholders": placeholders,
        **facts,
    }
    given = {name: value for name, value in fields.items() if value}
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


def _make_stack(fields: Mapping[str, Any] | None) -> Stack | None:
    return Stack(tuple(fields["layers"]), dict(fields["roles"])) if fields else None
