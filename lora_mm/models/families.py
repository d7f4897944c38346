"""Describes model families, one row a family: what the modules of a model do not show. Knows no torch.

:mod:`.anatomy` finds the layers and parts of a model by the module names and methods that transformers' models share. A
row says the rest. Facts hold for transformers 5.2x; tests check every row against a model built from its configuration.
A new family is a new row here, and a tiny model and batch in ``tests/helpers/families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lora_mm.errors import InputError, suggest_name
from lora_mm.models.chat_template import write_plain_template
from lora_mm.models.description import ModelDescription

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PARTS = ("vision", "connector", "language", "head", "audio")

Crops = Literal["none", "overview_first", "overview_last", "quarters", "unknown"]


@dataclass(frozen=True)
class Family:
    """What is true of the models of one family, beside what their modules show.

    Attributes:
        placeholders: modality → where the id of its placeholder token is: the name of a config attribute, or a function
            of the config that returns the id or None.
        tower: whether the family has a vision tower. Without, patches are projected straight into the language model.
        visual_tokens: whether placeholders are replaced by the tower's features, so that some of the language model's
            tokens are visual. False if the language model attends to the picture by cross-attention.
        crops: how the tower's rows are the crops of a picture: ``none`` (no tiling of its own), or tiles in reading
            order with the whole picture before (``overview_first``) or after them (``overview_last``), or always four
            tiles with the whole picture after them (``quarters``). A picture that the processor did not tile is one
            row, its overview. ``unknown`` for a type without a row.
        framed: whether marker tokens enclose the placeholders of each picture, so that each crop that our slicer makes
            is a separate run of placeholders. All pictures of a sample are then sliced, or none.
        packed: whether several pictures or tiles share one row of the tower, so that no row is a picture or a crop.
        lacking: part → roles that its layers lack, of those that a method needs.
        template: chat template for checkpoints without one.
        generates_inside: path of the inner model that generates, if generation does not call the forward of the whole
            model; None if it does.
        layers: part (``language`` or ``vision``) → paths of its ``ModuleList`` objects, whose layers are numbered
            consecutively, where the search would find others.
        roles: part → role → path inside a layer, where a layer has other names than :mod:`.layer_roles` knows.
        parts: part in :data:`PARTS` → path prefixes of its modules, where the search would find others; the longest
            prefix that matches decides. A prefix can name a bare parameter.
    """

    placeholders: Mapping[str, str | Callable[[PretrainedConfig], int | None]]
    tower: bool = True
    visual_tokens: bool = True
    crops: Crops = "none"
    framed: bool = False
    packed: bool = False
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    template: str | None = None
    generates_inside: str | None = None
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _find_token(*names: str) -> Callable[[PretrainedConfig], int | None]:
    """Make a function that gets the first of several config attributes that there is."""

    def get_token(config: PretrainedConfig) -> int | None:
        return next((found for name in names if (found := getattr(config, name, None)) is not None), None)

    get_token.__doc__ = " or ".join(names)
    return get_token


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
_PICTURES_FIRST = write_plain_template(pictures_first=True)

# The tower reads the patches of all pictures in the batch as one long row: no row is a crop.
_QWEN = Family(_IMAGE_AND_VIDEO, packed=True)
# The frames of a video use image placeholders between these marks; video_token_id never reaches the model.
_GLM = Family({"image": "image_token_id", "video": "video_start_token_id"}, packed=True)
# The tower reads pictures of any size one after the other, in one row.
_PIXTRAL = Family(_IMAGE, packed=True)
# split_images: tiles by rows, then the global image. The frames of a video use image placeholders.
_IDEFICS3 = Family(_IMAGE, crops="overview_last")
_BLIP = Family(_IMAGE, template=_PICTURES_FIRST, generates_inside="language_model")

_FEED_FORWARD = ("gate", "up", "gate_up", "down")
"""What the layers lack whose feed-forward is a mixture of experts."""

FAMILIES: dict[str, Family] = {
    "llava": Family(_IMAGE),
    # get_image_patches: the resized picture, then the tiles; pack_image_features reads row 0 as the base image.
    "llava_next": Family(_IMAGE, crops="overview_first"),
    # As LLaVA-NeXT; neither several pictures in one sample (batch_num_images) nor a video's frames are tiled.
    "llava_onevision": Family(_IMAGE_AND_VIDEO, crops="overview_first"),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    # deepstack_visual_indexes adds outputs of some blocks to early language layers; the last block is read as well.
    "qwen3_vl": _QWEN,
    "glm4v": _GLM,
    # crop_image_to_patches: the tiles, then the thumbnail, which a picture of one tile lacks. The frames of a video use
    # image placeholders.
    "internvl": Family(_IMAGE, crops="overview_last"),
    # Open Flamingo: gated cross-attention between the language layers; no token is replaced.
    "idefics": Family(
        {"image": _idefics_image_token},
        visual_tokens=False,
        template=write_plain_template(),
        layers={"language": ("model.layers",)},
        parts={
            "connector": ("model.perceiver_resampler", "model.gated_cross_attn_layers"),
            "language": ("model.layers", "model.norm", "model.embed_tokens"),
        },
    ),
    # split_images: four quarters, then the whole picture; where the processor's do_image_splitting is on.
    "idefics2": Family(_IMAGE, crops="quarters"),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,
    "blip-2": _BLIP,
    "instructblip": _BLIP,
    "paligemma": Family(_IMAGE, template=_PICTURES_FIRST),
    # Pan-and-scan crops (off by default) look like separate pictures in the prompt: nothing tells them apart.
    "gemma3": Family(_IMAGE, framed=True),
    # No tower: patches are projected straight into the language model.
    "fuyu": Family(
        _IMAGE,
        tower=False,
        template=write_plain_template(bos="<s>", pictures_first=True, end="<0x04>", mark="|SPEAKER|"),
    ),
    # A row of the tower is a picture: its tiles, up to max_num_tiles, in sequence. There is no overview. The states of
    # some layers are read too (intermediate_layers_indices); all layers are read at the end.
    "mllama": Family(_IMAGE, visual_tokens=False, packed=True),
    "vipllava": Family(_IMAGE),
    "qwen3_5": _QWEN,
    "qwen3_5_moe": replace(_QWEN, lacking={"language": _FEED_FORWARD}),
    "qwen3_vl_moe": replace(_QWEN, lacking={"language": _FEED_FORWARD}),
    "glm46v": _GLM,
    "glm_ocr": _GLM,
    "exaone4_5": replace(_PIXTRAL, lacking={"language": ("attn_norm", "ffn_norm")}),
    "paddleocr_vl": _PIXTRAL,
    "video_llama_3": _PIXTRAL,
    "mistral3": _PIXTRAL,
    "lighton_ocr": _PIXTRAL,
    "muse_glimmer": _PIXTRAL,
    "minicpmv4_6": _PIXTRAL,
    # crop_to_patches: the tiles, then the thumbnail.
    "aya_vision": Family(_IMAGE, crops="overview_last"),
    "qianfan_ocr": Family(_IMAGE, crops="overview_last"),
    # These cut pictures, or read them in windows; which row of the tower is which crop is not tested.
    "cohere2_vision": Family(_IMAGE, crops="unknown"),
    "ovis2": Family(_IMAGE, crops="unknown"),
    "lfm2_vl": Family(_IMAGE, crops="unknown"),
    "got_ocr2": Family(_IMAGE, crops="unknown"),
    "gemma4": Family(_IMAGE, framed=True),
    "gemma4_unified": Family(_IMAGE, tower=False),
}

_UNKNOWN = Family(
    {
        "image": _find_token("image_token_id", "image_token_index"),
        "video": _find_token("video_token_id", "video_token_index"),
    },
    crops="unknown",
)
"""What is taken for true of a type without a row."""


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


def find_family(model_type: str, description: ModelDescription | None = None) -> Family:
    """Find what is true of a model type; for a type without a row, what most families have in common.

    Args:
        model_type: as in the model's config.
        description: the user's own description, which takes precedence.

    Raises:
        InputError: the description is like a type without a row.
    """
    said = description.model_dump(exclude_none=True) if description else {}
    like = said.pop("like", None)
    if like is not None and like not in FAMILIES:
        raise InputError(
            f"base.anatomy: no family '{like}' to be like; known: {', '.join(FAMILIES)}."
            f"{suggest_name(like, list(FAMILIES))}"
        )
    family = FAMILIES.get(like or model_type, _UNKNOWN)
    stacks: dict[str, Any] = {part: said.pop(part) for part in ("language", "vision") if part in said}
    layers = {part: tuple(stack["layers"]) for part, stack in stacks.items() if stack.get("layers")}
    roles: dict[str, Mapping[str, str]] = {
        part: dict(stack["roles"]) for part, stack in stacks.items() if stack.get("roles")
    }
    parts = {part: tuple(paths) for part, paths in said.pop("parts", {}).items()}
    return replace(
        family,
        layers={**family.layers, **layers},
        roles={**family.roles, **roles},
        parts={**family.parts, **parts},
        placeholders={**family.placeholders, **said.pop("placeholders", {})},
        **said,
    )
