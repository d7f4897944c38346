"""Tiny random models of the families of 2025 and 2026, and of those that came after the first eighteen."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from torch import Tensor

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
    flat,
    noise,
    patches,
    qwen_marks,
    rows,
)

QWEN3_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": TEXT_WIDTH,
    "num_position_embeddings": 16,
}
HYBRID: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 12,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SIGLIP: dict[str, Any] = {"model_type": "siglip_vision_model", **VISION, "patch_size": 4, "vision_use_head": False}
PIXTRAL: dict[str, Any] = {"model_type": "pixtral", **VISION, "patch_size": 4, "head_dim": 16}
ANY_SIZE = {name: value for name, value in VISION.items() if name != "image_size"}
GEMMA4_TEXT: dict[str, Any] = {**TEXT, "head_dim": 12, "global_head_dim": 12, "sliding_window": 8}
GEMMA4_MARKS: dict[str, Any] = {**MARKS, "boi_token_id": IMAGE_START, "eoi_token_id": 7, "audio_token_id": 9}


def _sized(counts: Sequence[int]) -> Batch:
    """Pixtral's: pictures with their sizes."""
    pictures = sum(counts)
    return {"pixel_values": rows(pictures), "image_sizes": torch.tensor([[SIZE, SIZE]] * pictures)} if pictures else {}


def _naflex(counts: Sequence[int]) -> Batch:
    """SigLIP 2's: the patches of each picture in a row, with their grid."""
    pictures = sum(counts)
    if not pictures:
        return {}
    return {
        "pixel_values": torch.stack([noise(16, 48, seed=index) for index in range(pictures)]),
        "pixel_attention_mask": torch.ones(pictures, 16).long(),
        "spatial_shapes": torch.tensor([[4, 4]] * pictures),
    }


def _in_one_row(
    *shape: int, along: int = 0, grid: str = "image_grid_thw", **more: int
) -> Callable[[Sequence[int]], Batch]:
    """Pixels of ``shape`` a picture, all pictures one after the other, with the grid of 4 × 4 patches of each."""

    def make(counts: Sequence[int]) -> Batch:
        pictures = sum(counts)
        if not pictures:
            return {}
        size = [1, 4, 4] if grid.endswith("thw") else [4, 4]
        pixels = torch.cat([noise(*shape, seed=index) for index in range(pictures)], dim=along)
        extra = {name: torch.tensor([value] * pictures) for name, value in more.items()}
        return {"pixel_values": pixels, grid: torch.tensor([size] * pictures), **extra}

    return make


def _gemma4_pixels(side: int, width: int) -> Callable[[Sequence[int]], Batch]:
    """Gemma 4's: ``side`` × ``side`` patches of ``width`` values a picture, between 0 and 1, and their places."""

    def make(counts: Sequence[int]) -> Batch:
        pictures = sum(counts)
        if not pictures:
            return {}
        places = [[x, y] for y in range(side) for x in range(side)]
        return {
            "pixel_values": torch.stack([noise(side**2, width, seed=index).sigmoid() for index in range(pictures)]),
            "image_position_ids": torch.tensor([places] * pictures),
        }

    return make


def _gemma4_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    return {"mm_token_type_ids": (ids == IMAGE).long()}


def _large(counts: Sequence[int]) -> Batch:
    """GOT-OCR's: 64 × 64 pixels a picture, which its tower reads in windows."""
    return {"pixel_values": torch.stack([noise(3, 64, 64, seed=n) for n in range(sum(counts))])} if sum(counts) else {}


def _qwen3(cls: Any, vision: dict[str, Any], text: dict[str, Any]) -> Family:
    rope = {**MROPE, "partial_rotary_factor": 1.0}
    return Family(
        lambda: cls(
            vision_config={**QWEN_VISION, **QWEN3_VISION, **vision},
            text_config={**TEXT, "rope_parameters": rope, **text},
            vision_start_token_id=IMAGE_START,
            vision_end_token_id=7,
            **MARKS,
        ),
        (IMAGE_START, *FOUR),
        patches,
        qwen_marks,
        positions=False,
        reentrant=False,
    )


def _glm(cls: Any) -> Family:
    return Family(
        lambda: cls(
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
    )


def _cohere(cls: Any, **mark: int) -> Family:
    return Family(
        lambda: cls(
            vision_config=SIGLIP,
            text_config={"model_type": "cohere2", **TEXT},
            downsample_factor=2,
            alignment_intermediate_size=32,
            **mark,
        ),
        FOUR,
        flat,
        reentrant=False,
    )


NEWER_FAMILY: dict[str, Family] = {
    "vipllava": Family(
        lambda: hf.VipLlavaConfig(
            vision_config=hf.CLIPVisionConfig(**VISION).to_dict(),
            text_config=hf.LlamaConfig(**TEXT).to_dict(),
            image_token_index=IMAGE,
            vision_feature_layers=[-1, -2],
        ),
        FOUR,
        flat,
        reentrant=False,
    ),
    "qwen3_5": _qwen3(hf.Qwen3_5Config, {}, HYBRID),
    "qwen3_5_moe": _qwen3(hf.Qwen3_5MoeConfig, {}, {**HYBRID, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_vl_moe": _qwen3(hf.Qwen3VLMoeConfig, {"deepstack_visual_indexes": [0, 1]}, EXPERTS),
    "glm46v": _glm(hf.Glm46VConfig),
    "glm_ocr": _glm(hf.GlmOcrConfig),
    "mistral3": Family(
        lambda: hf.Mistral3Config(
            vision_config=PIXTRAL,
            text_config=hf.MistralConfig(**TEXT, head_dim=12).to_dict(),
            image_token_index=IMAGE,
            spatial_merge_size=2,
        ),
        FOUR,
        _sized,
    ),
    "lighton_ocr": Family(
        lambda: hf.LightOnOcrConfig(
            vision_config=PIXTRAL,
            text_config=hf.Qwen3Config(**TEXT, head_dim=12).to_dict(),
            image_token_id=IMAGE,
            spatial_merge_size=2,
        ),
        FOUR,
        _sized,
    ),
    # Attention and feed-forward side by side, after one norm.
    "aya_vision": _cohere(hf.AyaVisionConfig, image_token_index=IMAGE),
    "cohere2_vision": _cohere(hf.Cohere2VisionConfig, image_token_id=IMAGE),
    "got_ocr2": Family(
        lambda: hf.GotOcr2Config(
            vision_config={
                "hidden_size": 32,
                "output_channels": 16,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 4,
                "window_size": 4,
                "global_attn_indexes": [1],
                "mlp_dim": 48,
                "initializer_range": 0.02,
            },
            text_config={"model_type": "qwen2", **TEXT},
            image_token_index=IMAGE,
        ),
        (IMAGE,) * 16,
        _large,
    ),
    "ovis2": Family(
        lambda: hf.Ovis2Config(
            vision_config={
                **VISION,
                "patch_size": 4,
                "hidden_stride": 2,
                "vocab_size": 40,
                "num_visual_indicator_tokens": 5,
            },
            text_config={"model_type": "qwen2", **TEXT},
            image_token_id=IMAGE,
            visual_indicator_token_ids=[5, 6, 7, 8, 9],
            hidden_size=TEXT_WIDTH,
            vocab_size=VOCABULARY,
        ),
        FOUR,
        flat,
        reentrant=False,
    ),
    # A convolution in place of attention in some layers.
    "lfm2_vl": Family(
        lambda: hf.Lfm2VlConfig(
            vision_config={
                "model_type": "siglip2_vision_model",
                **ANY_SIZE,
                "patch_size": 4,
                "num_patches": 16,
                "vision_use_head": False,
            },
            text_config={
                "model_type": "lfm2",
                **TEXT,
                "layer_types": ["conv", "full_attention"],
                "block_auto_adjust_ff_dim": False,
            },
            image_token_id=IMAGE,
            projector_hidden_size=32,
        ),
        FOUR,
        _naflex,
    ),
    "qianfan_ocr": Family(
        lambda: hf.QianfanOCRConfig(
            vision_config={**VISION, "image_size": [SIZE, SIZE], "patch_size": [4, 4], "drop_path_rate": 0.0},
            text_config={"model_type": "qwen3", **TEXT, "head_dim": 12},
            image_token_id=IMAGE,
            image_seq_length=4,
        ),
        FOUR,
        flat,
    ),
    # Norms after attention and feed-forward only.
    "exaone4_5": Family(
        lambda: hf.Exaone4_5_Config(
            vision_config={
                **QWEN_VISION,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": TEXT_WIDTH,
                "window_size": 8,
                "fullatt_block_indexes": [1],
                "num_key_value_heads": 1,
            },
            text_config={"model_type": "exaone4", **TEXT},
            **MARKS,
        ),
        FOUR,
        patches,
        reentrant=False,
    ),
    "paddleocr_vl": Family(
        lambda: hf.PaddleOCRVLConfig(
            vision_config={**VISION, "patch_size": 4},
            text_config={**TEXT, "head_dim": 12, "rope_parameters": MROPE},
            vision_start_token_id=IMAGE_START,
            vision_end_token_id=7,
            **MARKS,
        ),
        (IMAGE_START, *FOUR),
        _in_one_row(16, 3, 4, 4),
        qwen_marks,
        positions=False,
        reentrant=False,
    ),
    "video_llama_3": Family(
        lambda: hf.VideoLlama3Config(
            vision_config={**ANY_SIZE, "patch_size": 4}, text_config={"model_type": "qwen2", **TEXT}, **MARKS
        ),
        FOUR,
        _in_one_row(16, 48, image_merge_sizes=2),
    ),
    # The last layers have no keys and values of their own.
    "gemma4": Family(
        lambda: hf.Gemma4Config(
            vision_config={
                "model_type": "gemma4_vision",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "patch_size": 4,
                "pooling_kernel_size": 2,
                "position_embedding_size": 64,
                "use_clipped_linears": True,
            },
            text_config={
                **GEMMA4_TEXT,
                "num_hidden_layers": 4,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "num_kv_shared_layers": 2,
                "hidden_size_per_layer_input": 8,
                "vocab_size_per_layer_input": VOCABULARY,
                "use_bidirectional_attention": "vision",
            },
            **GEMMA4_MARKS,
        ),
        (IMAGE_START, *FOUR, 7),
        _gemma4_pixels(4, 48),
        _gemma4_marks,
        reentrant=False,
    ),
    "gemma4_unified": Family(
        lambda: hf.Gemma4UnifiedConfig(
            vision_config={
                "patch_size": 4,
                "pooling_kernel_size": 2,
                "mm_embed_dim": TEXT_WIDTH,
                "mm_posemb_size": 16,
                "output_proj_dims": TEXT_WIDTH,
            },
            text_config={**GEMMA4_TEXT, "layer_types": ["sliding_attention", "full_attention"]},
            **GEMMA4_MARKS,
        ),
        (IMAGE_START, *FOUR, 7),
        _gemma4_pixels(2, 192),
        _gemma4_marks,
    ),
    # A gate on attention's output, and norms before and after both blocks.
    "muse_glimmer": Family(
        lambda: hf.MuseGlimmerConfig(
            vision_config={
                "patch_size": 4,
                "pos_emb_height": 4,
                "pos_emb_width": 4,
                "num_attention_heads": 2,
                "num_hidden_layers": 3,
                "hidden_size": 32,
                "intermediate_size": 48,
                "max_position_embeddings": 16,
            },
            text_config={**TEXT, "head_dim": 12, "sliding_window": 8},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            out_hidden_size=128,
            projector_hidden_size=32,
        ),
        FOUR,
        patches,
        reentrant=False,
    ),
    "minicpmv4_6": Family(
        lambda: hf.MiniCPMV4_6Config(
            vision_config={**VISION, "patch_size": 4, "window_kernel_size": [2, 2]},
            text_config={
                "model_type": "qwen3_5_text",
                **TEXT,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
                **HYBRID,
            },
            insert_layer_id=1,
            image_size=SIZE,
            **MARKS,
        ),
        (IMAGE,),
        _in_one_row(1, 3, 4, 64, along=-1, grid="target_sizes"),
    ),
}
