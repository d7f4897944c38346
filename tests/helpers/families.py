"""A tiny random model of every family, and batches for it as its processor would make them.

Ids are the same everywhere: 0 pads, 1 begins, 2 ends, :data:`IMAGE` stands for a picture, :data:`VIDEO` for a video.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

IMAGE, VIDEO, IMAGE_START, VIDEO_START = 3, 4, 5, 6
VOCABULARY = 512
SIZE, PATCH, TEXT_WIDTH = 16, 8, 48

Batch = dict[str, Tensor]

TEXT: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
QWEN_VISION: dict[str, Any] = {
    "depth": 3,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
MARKS = {"image_token_id": IMAGE, "video_token_id": VIDEO}


@dataclass(frozen=True)
class Family:
    """How to build and feed one family.

    Attributes:
        config: of the tiny model.
        picture: tokens of one picture in a row that holds it alone.
        pixels: from the number of pictures in each row, what the model gets beside the tokens.
        marks: from ids, mask and the number of pictures in each row, what it gets that is as long as the ids.
        several: tokens of one picture of several in a row; None as ``picture``; () where a row takes only one.
        grown: the value of each of ``marks`` for a token that was written; None repeats the last one.
        positions: whether the model takes ``position_ids``; else it works them out from the mask itself.
        mixes: whether the base itself computes a row without pictures beside one with pictures as it does alone.
        beams: whether the base itself can write with beams; transformers repeats Fuyu's tokens and not its pictures.
        reentrant: whether the reentrant kind of gradient checkpointing reaches its tower, as it only does where the
            tower tells transformers its input embedding; without, nothing in the tower gets a gradient.
    """

    config: Callable[[], Any]
    picture: tuple[int, ...]
    pixels: Callable[[Sequence[int]], Batch]
    marks: Callable[[Tensor, Tensor, Sequence[int]], Batch] = lambda ids, mask, counts: {}
    several: tuple[int, ...] | None = None
    grown: int | None = 0
    positions: bool = True
    mixes: bool = True
    beams: bool = True
    reentrant: bool = True


def _noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _rows(count: int) -> Tensor:
    """``count`` pictures, [count, 3, SIZE, SIZE]; the first ones are the same for every count."""
    return torch.stack([_noise(3, SIZE, SIZE, seed=index) for index in range(count)])


def _flat(counts: Sequence[int]) -> Batch:
    """One row of the tower a picture, over the whole batch."""
    return {"pixel_values": _rows(sum(counts))} if sum(counts) else {}


def _at_least_one(counts: Sequence[int]) -> Batch:
    """As ``_flat``, for models that refuse a batch without pictures: there, one that no token stands for."""
    return {"pixel_values": _rows(max(1, sum(counts)))}


def _tiled(counts: Sequence[int]) -> Batch:
    """Pictures of two tiles and an overview, [pictures, 3, 3, SIZE, SIZE]."""
    if not sum(counts):
        return {}
    pixels = torch.stack([_noise(3, 3, SIZE, SIZE, seed=index) for index in range(sum(counts))])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[SIZE, 2 * SIZE]] * sum(counts))}


def _onevision(counts: Sequence[int]) -> Batch:
    """As ``_tiled``; pictures of several in a row are not tiled, and zeros stand for their tiles."""
    tiled = _tiled(counts)
    if not tiled:
        return {}
    of_several = torch.tensor([count > 1 for count in counts for _ in range(count)])
    tiled["pixel_values"][of_several, 1:] = 0
    return {**tiled, "batch_num_images": torch.tensor(counts)}


def _patches(counts: Sequence[int]) -> Batch:
    """Qwen's: the patches of all pictures, 4 × 4 each, in one row."""
    if not sum(counts):
        return {}
    pixels = torch.cat([_noise(16, 3 * 2 * 4 * 4, seed=index) for index in range(sum(counts))])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * sum(counts))}


def _by_sample(counts: Sequence[int]) -> Batch:
    """Idefics2, Idefics3, SmolVLM: [batch, pictures, …], filled up with pictures of zeros, which the model drops."""
    if not sum(counts):
        return {}
    pixels = torch.zeros(len(counts), max(counts), 3, SIZE, SIZE)
    for row, count in enumerate(counts):
        pixels[row, :count] = _rows(count) if count else 0
    return {"pixel_values": pixels, "pixel_attention_mask": (pixels != 0).any(dim=2).long()}


def _idefics_pixels(counts: Sequence[int]) -> Batch:
    """Idefics: a sample without a picture gets one of zeros, to which its mask lets no token look."""
    pixels = torch.zeros(len(counts), max(1, *counts), 3, SIZE, SIZE)
    for row, count in enumerate(counts):
        pixels[row, :count] = _rows(count) if count else 0
    return {"pixel_values": pixels}


def _idefics_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    """[batch, tokens, pictures]: a token looks at the last picture before it."""
    seen = (ids == VOCABULARY + 1).cumsum(dim=1)
    pictures = torch.arange(1, max(1, *counts) + 1)
    return {"image_attention_mask": (seen.unsqueeze(-1) == pictures).long()}


def _mllama_pixels(counts: Sequence[int]) -> Batch:
    """[batch, pictures, tiles, …]; every picture is of two tiles side by side. Rows without one have zeros and id 0."""
    if not sum(counts):
        return {}
    most = max(counts)
    there = torch.tensor([[index < count for index in range(most)] for count in counts])
    pixels = torch.zeros(len(counts), most, 2, 3, SIZE, SIZE)
    for row, count in enumerate(counts):
        for index in range(count):
            pixels[row, index] = _noise(2, 3, SIZE, SIZE, seed=index)
    tiles = torch.stack([torch.ones_like(there), there], dim=-1).long()  # of a picture that is not there, one tile
    return {"pixel_values": pixels, "aspect_ratio_ids": there.long() * 2, "aspect_ratio_mask": tiles}


def _mllama_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    """[batch, tokens, pictures, tiles]: a token looks at the last picture before it; pictures in a row, at them all."""
    if not sum(counts):
        return {}
    seen = (ids == IMAGE).cumsum(dim=1)
    pictures = torch.arange(1, max(counts) + 1)
    look = (seen.unsqueeze(-1) >= pictures) & (pictures <= torch.tensor(counts)[:, None, None])
    return {"cross_attention_mask": look.unsqueeze(-1).expand(-1, -1, -1, 2).long().contiguous()}


def _fuyu_pixels(counts: Sequence[int]) -> Batch:
    """[pictures, 4 patches, pixels]."""
    return {"pixel_values": torch.stack([_noise(4, 48, seed=n) for n in range(sum(counts))])} if sum(counts) else {}


def _instructblip_pixels(counts: Sequence[int]) -> Batch:
    """The Q-Former reads the instruction too, of each picture."""
    pixels = _at_least_one(counts)
    ids = torch.randint(5, 60, (len(pixels["pixel_values"]), 3), generator=torch.Generator().manual_seed(3))
    return {**pixels, "qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def _qwen_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    return {"mm_token_type_ids": (ids == IMAGE).long()} if sum(counts) else {}


def _gemma_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    return {"token_type_ids": (ids == IMAGE).long()}


def _paligemma_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    """0 for the prompt, whose tokens see each other; 1 for what is written."""
    return {"token_type_ids": torch.zeros_like(ids)}


def _llava_like(cls: Any, tower: Any, **more: Any) -> Callable[[], Any]:
    return lambda: cls(
        vision_config=tower.to_dict(),
        text_config=hf.LlamaConfig(**TEXT).to_dict(),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [SIZE, SIZE]],
        **more,
    )


def _blip(cls: Any, text: Any) -> Callable[[], Any]:
    return lambda: cls(
        vision_config={**VISION, "initializer_range": 0.02},
        qformer_config={**VISION, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "encoder_hidden_size": 32},
        text_config=text,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )


def _qwen(cls: Any, vision: dict[str, Any]) -> Callable[[], Any]:
    return lambda: cls(
        vision_config={**QWEN_VISION, **vision},
        text_config={**TEXT, "rope_parameters": MROPE},
        vision_start_token_id=IMAGE_START,
        vision_end_token_id=7,
        **MARKS,
    )


def _idefics3(cls: Any) -> Callable[[], Any]:
    return lambda: cls(
        vision_config={**VISION, "patch_size": 4},
        text_config=hf.LlamaConfig(**TEXT).to_dict(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )


FOUR = (IMAGE,) * 4
OPT = {
    "model_type": "opt",
    "hidden_size": TEXT_WIDTH,
    "word_embed_proj_dim": TEXT_WIDTH,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dropout": 0.0,
}

FAMILY: dict[str, Family] = {
    "llava": Family(
        lambda: hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**VISION).to_dict(),
            text_config=hf.LlamaConfig(**TEXT).to_dict(),
            image_token_index=IMAGE,
        ),
        FOUR,
        _flat,
    ),
    # An overview of 4 tokens, then 2 × 4 tokens of the two tiles, each line with a newline.
    "llava_next": Family(
        _llava_like(hf.LlavaNextConfig, hf.CLIPVisionConfig(**VISION)), (IMAGE,) * (4 + 2 * 5), _tiled
    ),
    "llava_onevision": Family(
        _llava_like(
            hf.LlavaOnevisionConfig,
            hf.SiglipVisionConfig(**VISION, vision_use_head=False),
            video_token_index=VIDEO,
        ),
        (IMAGE,) * (4 + 2 * 5),
        _onevision,
        several=(IMAGE,) * (4 + 1),
    ),
    "qwen2_vl": Family(
        _qwen(hf.Qwen2VLConfig, {"embed_dim": 32, "hidden_size": TEXT_WIDTH, "mlp_ratio": 2}),
        (IMAGE_START, *FOUR),
        _patches,
        _qwen_marks,
        positions=False,
    ),
    "qwen2_5_vl": Family(
        _qwen(
            hf.Qwen2_5_VLConfig,
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": TEXT_WIDTH,
                "window_size": 8,
                "fullatt_block_indexes": [1],
            },
        ),
        (IMAGE_START, *FOUR),
        _patches,
        _qwen_marks,
        positions=False,
    ),
    "qwen3_vl": Family(
        _qwen(
            hf.Qwen3VLConfig,
            {
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": TEXT_WIDTH,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 1],
            },
        ),
        (IMAGE_START, *FOUR),
        _patches,
        _qwen_marks,
        positions=False,
        reentrant=False,
    ),
    "glm4v": Family(
        lambda: hf.Glm4vConfig(
            vision_config={
                **QWEN_VISION,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": TEXT_WIDTH,
                "image_size": SIZE,
            },
            text_config={**TEXT, "rope_parameters": MROPE},
            image_start_token_id=IMAGE_START,
            image_end_token_id=7,
            video_start_token_id=VIDEO_START,
            video_end_token_id=8,
            **MARKS,
        ),
        (IMAGE_START, *FOUR, 7),
        _patches,
        _qwen_marks,
        positions=False,
        reentrant=False,
    ),
    "internvl": Family(
        lambda: hf.InternVLConfig(
            vision_config={**VISION, "image_size": [SIZE, SIZE], "patch_size": [4, 4]},
            text_config=hf.Qwen2Config(**TEXT).to_dict(),
            image_token_id=IMAGE,
            image_seq_length=4,
        ),
        FOUR,
        _flat,
    ),
    # The added tokens follow the vocabulary: <fake_token_around_image>, then <image>.
    "idefics": Family(
        lambda: hf.IdeficsConfig(
            **{key: value for key, value in TEXT.items() if key != "num_key_value_heads"},
            additional_vocab_size=2,
            alpha_initializer="ones",
            freeze_text_layers=False,
            freeze_vision_layers=False,
            use_resampler=True,
            vision_config={**VISION, "embed_dim": 32},
            perceiver_config={
                "use_resampler": True,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "resampler_head_dim": 16,
            },
        ),
        (VOCABULARY, VOCABULARY + 1, VOCABULARY),
        _idefics_pixels,
        _idefics_marks,
        grown=None,
        reentrant=False,
    ),
    "idefics2": Family(
        lambda: hf.Idefics2Config(
            vision_config={**VISION, "patch_size": 4},
            perceiver_config={
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "resampler_head_dim": 16,
                "num_key_value_heads": 1,
            },
            text_config=hf.MistralConfig(**TEXT).to_dict(),
            image_token_id=IMAGE,
        ),
        FOUR,
        _by_sample,
    ),
    "idefics3": Family(_idefics3(hf.Idefics3Config), FOUR, _by_sample),
    "smolvlm": Family(_idefics3(hf.SmolVLMConfig), FOUR, _by_sample),
    # The model's forward wants pictures always, and spreads them over the placeholders in order.
    "blip-2": Family(_blip(hf.Blip2Config, OPT), FOUR, _at_least_one),
    "instructblip": Family(_blip(hf.InstructBlipConfig, {"model_type": "llama", **TEXT}), FOUR, _instructblip_pixels),
    "paligemma": Family(
        lambda: hf.PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            text_config={"model_type": "gemma", **TEXT, "head_dim": 12},
            image_token_index=IMAGE,
            projection_dim=TEXT_WIDTH,
            hidden_size=TEXT_WIDTH,
            vocab_size=VOCABULARY,
        ),
        FOUR,
        _flat,
        _paligemma_marks,
        grown=1,
    ),
    "gemma3": Family(
        lambda: hf.Gemma3Config(
            vision_config={"model_type": "siglip_vision_model", **VISION, "patch_size": 4, "vision_use_head": False},
            text_config={
                "model_type": "gemma3_text",
                **TEXT,
                "head_dim": 12,
                "query_pre_attn_scalar": 12,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            mm_tokens_per_image=4,
            image_token_index=IMAGE,
            boi_token_index=IMAGE_START,
            eoi_token_index=7,
        ),
        (IMAGE_START, *FOUR, 7),
        _flat,
        _gemma_marks,
    ),
    "fuyu": Family(
        lambda: hf.FuyuConfig(
            text_config={
                "model_type": "persimmon",
                **{key: value for key, value in TEXT.items() if key != "num_key_value_heads"},
                "hidden_dropout": 0.0,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            },
            patch_size=4,
            image_token_id=IMAGE,
        ),
        FOUR,
        _fuyu_pixels,
        beams=False,
    ),
    "mllama": Family(
        lambda: hf.MllamaConfig(
            vision_config={
                **{key: value for key, value in VISION.items() if key != "num_attention_heads"},
                "attention_heads": 2,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "intermediate_layers_indices": [1],
                "vision_output_dim": 64,
                "max_num_tiles": 2,
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
            text_config={
                **TEXT,
                "cross_attention_layers": [1],
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            },
            image_token_index=IMAGE,
        ),
        (IMAGE,),
        _mllama_pixels,
        _mllama_marks,
        grown=None,
        # Its cross-attention layers are run for a whole batch or not at all; in a row without a picture they look at
        # zeros, evenly, and add what they saw.
        mixes=False,
    ),
}


@functools.cache
def _built(family: str) -> nn.Module:
    with torch.random.fork_rng():  # whoever asks first must find the same numbers after it as who asks later
        torch.manual_seed(0)
        return _drawn(FAMILY[family].config())


def _drawn(config: Any) -> nn.Module:
    model = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():  # the usual 0.02 leaves logits so flat that nothing would show
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
            if not parameter.any() and not name.endswith("bias"):  # gates, query tokens
                parameter.normal_(0.7, 0.3)
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.eos_token_id = None  # no row stops early
    model.requires_grad_(False)
    return model


def family_model(family: str) -> nn.Module:
    """A fresh tiny model of ``family``, frozen; equal on every call."""
    return copy.deepcopy(_built(family))


def family_batch(family: str, counts: Sequence[int] = (1, 0), seed: int = 0) -> Batch:
    """A left-padded batch whose rows hold ``counts`` pictures each: by default a row with a picture and one without.

    A row's text depends on its number of pictures and on ``seed`` only, so ``(0,)`` is the second row alone.
    """
    made = FAMILY[family]
    rows = []
    for count in counts:
        text = torch.randint(10, 300, (6 - count,), generator=torch.Generator().manual_seed(100 * seed + count))
        one = made.picture if count <= 1 or made.several is None else made.several
        rows.append([1, *(count * one), *text.tolist()])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, **made.pixels(counts), **made.marks(ids, mask, counts)}
