"""What tiny models of the families get: token ids, pixels and marks as their processors would make them.

Ids are the same everywhere: 0 pads, 1 begins, 2 ends, :data:`IMAGE` stands for a picture, :data:`VIDEO` for a video.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(count: int) -> Tensor:
    """``count`` pictures, [count, 3, SIZE, SIZE]; the first ones are the same for every count."""
    return torch.stack([noise(3, SIZE, SIZE, seed=index) for index in range(count)])


def flat(counts: Sequence[int]) -> Batch:
    """One row of the tower a picture, over the whole batch."""
    return {"pixel_values": rows(sum(counts))} if sum(counts) else {}


def at_least_one(counts: Sequence[int]) -> Batch:
    """As ``flat``, for models that refuse a batch without pictures: there, one that no token stands for."""
    return {"pixel_values": rows(max(1, sum(counts)))}


def tiled(counts: Sequence[int]) -> Batch:
    """Pictures of two tiles and an overview, [pictures, 3, 3, SIZE, SIZE]."""
    if not sum(counts):
        return {}
    pixels = torch.stack([noise(3, 3, SIZE, SIZE, seed=index) for index in range(sum(counts))])
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[SIZE, 2 * SIZE]] * sum(counts))}


def onevision(counts: Sequence[int]) -> Batch:
    """As ``tiled``; pictures of several in a row are not tiled, and zeros stand for their tiles."""
    batch = tiled(counts)
    if not batch:
        return {}
    of_several = torch.tensor([count > 1 for count in counts for _ in range(count)])
    batch["pixel_values"][of_several, 1:] = 0
    return {**batch, "batch_num_images": torch.tensor(counts)}


def patches(counts: Sequence[int]) -> Batch:
    """Qwen's: the patches of all pictures, 4 × 4 each, in one row."""
    if not sum(counts):
        return {}
    pixels = torch.cat([noise(16, 3 * 2 * 4 * 4, seed=index) for index in range(sum(counts))])
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * sum(counts))}


def by_sample(counts: Sequence[int]) -> Batch:
    """Idefics2, Idefics3, SmolVLM: [batch, pictures, …], filled up with pictures of zeros, which the model drops."""
    if not sum(counts):
        return {}
    pixels = torch.zeros(len(counts), max(counts), 3, SIZE, SIZE)
    for row, count in enumerate(counts):
        pixels[row, :count] = rows(count) if count else 0
    return {"pixel_values": pixels, "pixel_attention_mask": (pixels != 0).any(dim=2).long()}


def idefics_pixels(counts: Sequence[int]) -> Batch:
    """Idefics: a sample without a picture gets one of zeros, to which its mask lets no token look."""
    pixels = torch.zeros(len(counts), max(1, *counts), 3, SIZE, SIZE)
    for row, count in enumerate(counts):
        pixels[row, :count] = rows(count) if count else 0
    return {"pixel_values": pixels}


def idefics_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    """[batch, tokens, pictures]: a token looks at the last picture before it."""
    seen = (ids == VOCABULARY + 1).cumsum(dim=1)
    pictures = torch.arange(1, max(1, *counts) + 1)
    return {"image_attention_mask": (seen.unsqueeze(-1) == pictures).long()}


def mllama_pixels(counts: Sequence[int]) -> Batch:
    """[batch, pictures, tiles, …]; every picture is of two tiles side by side. Rows without one have zeros and id 0."""
    if not sum(counts):
        return {}
    most = max(counts)
    there = torch.tensor([[index < count for index in range(most)] for count in counts])
    pixels = torch.zeros(len(counts), most, 2, 3, SIZE, SIZE)
    for row, count in enumerate(counts):
        for index in range(count):
            pixels[row, index] = noise(2, 3, SIZE, SIZE, seed=index)
    tiles = torch.stack([torch.ones_like(there), there], dim=-1).long()  # of a picture that is not there, one tile
    return {"pixel_values": pixels, "aspect_ratio_ids": there.long() * 2, "aspect_ratio_mask": tiles}


def mllama_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    """[batch, tokens, pictures, tiles]: a token looks at the last picture before it; pictures in a row, at them all."""
    if not sum(counts):
        return {}
    seen = (ids == IMAGE).cumsum(dim=1)
    pictures = torch.arange(1, max(counts) + 1)
    look = (seen.unsqueeze(-1) >= pictures) & (pictures <= torch.tensor(counts)[:, None, None])
    return {"cross_attention_mask": look.unsqueeze(-1).expand(-1, -1, -1, 2).long().contiguous()}


def fuyu_pixels(counts: Sequence[int]) -> Batch:
    """[pictures, 4 patches, pixels]."""
    return {"pixel_values": torch.stack([noise(4, 48, seed=n) for n in range(sum(counts))])} if sum(counts) else {}


def instructblip_pixels(counts: Sequence[int]) -> Batch:
    """The Q-Former reads the instruction too, of each picture."""
    pixels = at_least_one(counts)
    ids = torch.randint(5, 60, (len(pixels["pixel_values"]), 3), generator=torch.Generator().manual_seed(3))
    return {**pixels, "qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def qwen_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    return {"mm_token_type_ids": (ids == IMAGE).long()} if sum(counts) else {}


def gemma_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    return {"token_type_ids": (ids == IMAGE).long()}


def paligemma_marks(ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Batch:
    """0 for the prompt, whose tokens see each other; 1 for what is written."""
    return {"token_type_ids": torch.zeros_like(ids)}


FOUR = (IMAGE,) * 4
