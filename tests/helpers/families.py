"""A tiny random model of every family, and batches for it."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.helpers.family_inputs import (
    FOUR,
    IMAGE,
    IMAGE_START,
    MARKS,
    MROPE,
    QWEN_VISION,
    SIZE,
    TEXT,
    TEXT_WIDTH,
    VIDEO,
    VIDEO_START,
    VISION,
    VOCABULARY,
    Batch,
    Family,
    at_least_one,
    by_sample,
    flat,
    fuyu_pixels,
    gemma_marks,
    idefics_marks,
    idefics_pixels,
    instructblip_pixels,
    mllama_marks,
    mllama_pixels,
    onevision,
    paligemma_marks,
    patches,
    qwen_marks,
    tiled,
)
from tests.helpers.newer_families import NEWER_FAMILY


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
        flat,
    ),
    # An overview of 4 tokens, then 2 × 4 tokens of the two tiles, each line with a newline.
    "llava_next": Family(_llava_like(hf.LlavaNextConfig, hf.CLIPVisionConfig(**VISION)), (IMAGE,) * (4 + 2 * 5), tiled),
    "llava_onevision": Family(
        _llava_like(
            hf.LlavaOnevisionConfig,
            hf.SiglipVisionConfig(**VISION, vision_use_head=False),
            video_token_index=VIDEO,
        ),
        (IMAGE,) * (4 + 2 * 5),
        onevision,
        several=(IMAGE,) * (4 + 1),
    ),
    "qwen2_vl": Family(
        _qwen(hf.Qwen2VLConfig, {"embed_dim": 32, "hidden_size": TEXT_WIDTH, "mlp_ratio": 2}),
        (IMAGE_START, *FOUR),
        patches,
        qwen_marks,
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
        patches,
        qwen_marks,
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
        patches,
        qwen_marks,
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
        patches,
        qwen_marks,
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
        flat,
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
        idefics_pixels,
        idefics_marks,
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
        by_sample,
    ),
    "idefics3": Family(_idefics3(hf.Idefics3Config), FOUR, by_sample),
    "smolvlm": Family(_idefics3(hf.SmolVLMConfig), FOUR, by_sample),
    # The model's forward wants pictures always, and spreads them over the placeholders in order.
    "blip-2": Family(_blip(hf.Blip2Config, OPT), FOUR, at_least_one),
    "instructblip": Family(_blip(hf.InstructBlipConfig, {"model_type": "llama", **TEXT}), FOUR, instructblip_pixels),
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
        flat,
        paligemma_marks,
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
        flat,
        gemma_marks,
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
        fuyu_pixels,
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
        mllama_pixels,
        mllama_marks,
        grown=None,
        # Its cross-attention layers are run for a whole batch or not at all; in a row without a picture they look at
        # zeros, evenly, and add what they saw.
        mixes=False,
    ),
} | NEWER_FAMILY


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
