"""A folder of every family that ``load_base`` takes: its tiny model and a real processor."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers as hf

from lora_mm.models.processor import drop_video_processor
from tests.helpers.families import family_model
from tests.helpers.family_inputs import PATCH, SIZE
from tests.helpers.tiny import TEMPLATE, tiny_tokenizer

SQUARE = {"height": SIZE, "width": SIZE}
EDGE = {"shortest_edge": SIZE}
TILES = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [SIZE, SIZE]]
SMALL = {"size": SQUARE, "do_convert_rgb": True}
FAKE, ATOM = "<fake_token_around_image>", "<IMG_ATOM>"
MARKS = ("<video>", "<start>", "<start_of_video>", "<end>", "<end_of_video>")
"""Ids 4 to 8, as in ``tests.helpers.families``."""


@dataclass(frozen=True)
class Made:
    """How to make one family's processor.

    Attributes:
        processor: of its tokenizer.
        special: tokens behind those of :data:`MARKS`.
        named: the tokenizer's attributes that name special tokens.
        mark: what the chat template writes for a picture; None where the checkpoints ship no template.
        begins: whether the tokenizer begins every text by itself, as the chat template does too.
    """

    processor: Callable[[Any], Any]
    special: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    mark: str | None = "<image>"
    begins: bool = False


def _qwen(processor: Any, image: Any) -> Made:
    size = {"shortest_edge": 64, "longest_edge": 256}
    return Made(
        lambda tokenizer: drop_video_processor(processor)(
            image(patch_size=4, merge_size=2, temporal_patch_size=2, size=size), tokenizer
        ),
        special=("<|box_start|>", "<|box_end|>"),
        named={"video_token": "<video>", "vision_start_token": "<start>", "vision_end_token": "<end>"},
        mark="<start><image><end>",
    )


def _make_llava_processor(tokenizer: Any) -> Any:
    return hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(size=EDGE, crop_size=SQUARE),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


PROCESSORS: dict[str, Made] = {
    "llava": Made(_make_llava_processor, begins=True),
    "llava_next": Made(
        lambda tokenizer: hf.LlavaNextProcessor(
            hf.LlavaNextImageProcessorPil(size=EDGE, crop_size=SQUARE, image_grid_pinpoints=TILES),
            tokenizer,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
    ),
    "llava_onevision": Made(
        lambda tokenizer: drop_video_processor(hf.LlavaOnevisionProcessor)(
            hf.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=TILES),
            tokenizer,
            num_image_tokens=4,
            vision_feature_select_strategy="full",
        ),
        named={"video_token": "<video>"},
    ),
    "qwen2_vl": _qwen(hf.Qwen2VLProcessor, hf.Qwen2VLImageProcessorPil),
    "qwen2_5_vl": _qwen(hf.Qwen2_5_VLProcessor, hf.Qwen2VLImageProcessorPil),
    "qwen3_vl": _qwen(hf.Qwen3VLProcessor, hf.Qwen2VLImageProcessorPil),
    "glm4v": _qwen(hf.Glm4vProcessor, hf.Glm4vImageProcessorPil),
    "internvl": Made(
        lambda tokenizer: drop_video_processor(hf.InternVLProcessor)(
            hf.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4), tokenizer, image_seq_length=4
        ),
        named={
            "start_image_token": "<start>",
            "end_image_token": "<end>",
            "context_image_token": "<image>",
            "video_token": "<video>",
        },
    ),
    "idefics": Made(
        lambda tokenizer: hf.IdeficsProcessor(hf.IdeficsImageProcessorPil(image_size=SIZE), tokenizer),
        special=(FAKE,),
        mark=None,
    ),
    "idefics2": Made(
        lambda tokenizer: hf.Idefics2Processor(
            hf.Idefics2ImageProcessorPil(size={"shortest_edge": 12, "longest_edge": SIZE}, do_image_splitting=True),
            tokenizer,
            image_seq_len=4,
        ),
        special=(FAKE, "<end_of_utterance>"),
        named={"image_boundary_token": FAKE},
    ),
    "idefics3": Made(
        lambda tokenizer: hf.Idefics3Processor(
            hf.Idefics3ImageProcessorPil(
                size={"longest_edge": 2 * SIZE}, max_image_size={"longest_edge": SIZE}, do_image_splitting=True
            ),
            tokenizer,
            image_seq_len=4,
        ),
        special=(
            FAKE,
            "<end_of_utterance>",
            "<global-img>",
            *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
        ),
    ),
    "blip-2": Made(
        lambda tokenizer: hf.Blip2Processor(hf.BlipImageProcessorPil(**SMALL), tokenizer, num_query_tokens=4),
        mark=None,
        begins=True,
    ),
    "instructblip": Made(
        lambda tokenizer: hf.InstructBlipProcessor(
            hf.BlipImageProcessorPil(**SMALL), tokenizer, tiny_tokenizer(("[SEP]",)), num_query_tokens=4
        ),
        mark=None,
        begins=True,
    ),
    "paligemma": Made(
        lambda tokenizer: hf.PaliGemmaProcessor(hf.SiglipImageProcessorPil(image_seq_length=4, **SMALL), tokenizer),
        mark=None,
    ),
    "gemma3": Made(
        lambda tokenizer: hf.Gemma3Processor(hf.Gemma3ImageProcessorPil(**SMALL), tokenizer, image_seq_length=4),
        named={"boi_token": "<start>", "eoi_token": "<end>"},
        mark="<start>",
        begins=True,
    ),
    "fuyu": Made(
        lambda tokenizer: hf.FuyuProcessor(
            hf.FuyuImageProcessorPil(size={"height": 16, "width": 24}, patch_size={"height": 4, "width": 4}), tokenizer
        ),
        special=("|SPEAKER|", "|NEWLINE|", "<0x04>"),
        mark=None,
    ),
    "mllama": Made(
        lambda tokenizer: hf.MllamaProcessor(hf.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=2), tokenizer),
        special=("<|python_tag|>",),
        begins=True,
    ),
    "vipllava": Made(_make_llava_processor),
    "qwen3_5": _qwen(hf.Qwen3VLProcessor, hf.Qwen2VLImageProcessorPil),
    "qwen3_5_moe": _qwen(hf.Qwen3VLProcessor, hf.Qwen2VLImageProcessorPil),
    "qwen3_vl_moe": _qwen(hf.Qwen3VLProcessor, hf.Qwen2VLImageProcessorPil),
    "glm46v": _qwen(hf.Glm46VProcessor, hf.Glm46VImageProcessorPil),
    "glm_ocr": _qwen(hf.Glm46VProcessor, hf.Glm46VImageProcessorPil),
    "exaone4_5": _qwen(hf.Exaone4_5_Processor, hf.Qwen2VLImageProcessorPil),
    "video_llama_3": Made(
        lambda tokenizer: drop_video_processor(hf.VideoLlama3Processor)(
            hf.VideoLlama3ImageProcessorPil(
                patch_size=4, merge_size=2, temporal_patch_size=1, min_pixels=64, max_pixels=256
            ),
            tokenizer,
        ),
        named={"video_token": "<video>"},
    ),
    "paddleocr_vl": Made(
        lambda tokenizer: hf.PaddleOCRVLProcessor(
            hf.PaddleOCRVLImageProcessorPil(
                patch_size=4, merge_size=2, temporal_patch_size=1, size={"shortest_edge": 64, "longest_edge": 256}
            ),
            tokenizer,
        ),
        mark="<start><image><end>",
    ),
    "lighton_ocr": Made(
        lambda tokenizer: hf.LightOnOcrProcessor(
            hf.PixtralImageProcessorPil(size={"longest_edge": SIZE}, patch_size=8),
            tokenizer,
            patch_size=4,
            spatial_merge_size=2,
        ),
        named={"image_break_token": "<start>", "image_end_token": "<end>"},
    ),
    "aya_vision": Made(
        lambda tokenizer: hf.AyaVisionProcessor(
            hf.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
            tokenizer,
            patch_size=4,
            img_size=SIZE,
            downsample_factor=2,
            image_token="<mark>",
            img_patch_token="<image>",
            start_of_img_token="<start>",
            end_of_img_token="<end>",
            tile_token="<tile>",
            tile_global_token="<tiles>",
        ),
        special=("<mark>", *(f"<tile>_{tile}" for tile in range(1, 5)), "<tiles>"),
        mark="<mark>",
        begins=True,
    ),
    "ovis2": Made(
        lambda tokenizer: hf.Ovis2Processor(
            hf.Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4), tokenizer, image_seq_length=4
        ),
        special=(ATOM, "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
    ),
    "qianfan_ocr": Made(
        lambda tokenizer: hf.QianfanOCRProcessor(
            hf.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
            tokenizer,
            image_seq_length=4,
            image_placeholder_token="<mark>",
        ),
        special=("<mark>",),
        named={"start_image_token": "<start>", "end_image_token": "<end>", "context_image_token": "<image>"},
        mark="<mark>",
    ),
    "gemma4": Made(
        lambda tokenizer: drop_video_processor(hf.Gemma4Processor)(
            hf.Gemma4AudioFeatureExtractor(),
            hf.Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70),
            tokenizer,
            None,
        ),
        special=("<audio>", "<start_of_audio>", "<end_of_audio>"),
        named={
            "boi_token": "<start>",
            "eoi_token": "<end>",
            "audio_token": "<audio>",
            "boa_token": "<start_of_audio>",
            "eoa_token": "<end_of_audio>",
        },
        begins=True,
    ),
}
"""All but those of :data:`LACKING`."""

LACKING = {
    "smolvlm": "its processor needs num2words",
    **dict.fromkeys(
        ("mistral3", "cohere2_vision", "lfm2_vl", "gemma4_unified", "muse_glimmer", "minicpmv4_6"),
        "its processor needs torchvision",
    ),
    "got_ocr2": "its processor writes prompts of its own",
}
"""Families whose processor asks for what is not here. SmolVLM's is Idefics3's again."""


def make_family_base(folder: Path, family: str) -> Path:
    """A folder that ``load_base`` takes."""
    made = PROCESSORS[family]
    model = family_model(family)
    tokenizer = tiny_tokenizer((*MARKS, *made.special), begins=made.begins, **made.named)
    processor = made.processor(tokenizer)
    if made.mark:
        processor.chat_template = ("{{ bos_token }}" if made.begins else "") + TEMPLATE.replace("<image>", made.mark)
    if family == "fuyu":
        model.config.image_token_id = processor.image_token_id
    if family == "ovis2":  # another token takes the features than the one that marks the picture
        model.config.image_token_id = tokenizer.convert_tokens_to_ids(ATOM)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
