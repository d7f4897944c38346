"""The signal that every router reads: the modality of each row of the batch, which tokens are visual, and which crop of
its picture each row of the tower holds. Knows no adapter.

It is read in each forward from the token ids that the model gets anyway: callers pass nothing, and padding, beams and
caches cannot put it out of step. The key-value cache carries the modality from prefill to decoding.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.image_processing_utils import select_best_resolution

from lora_mm.adapters.crops import OVERVIEW, compute_crop_index, count_tiles
from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import get_anatomy, get_placeholder_ids

_CACHED_MODALITY = "_lora_mm_modality"
"""Attribute of a key-value cache: the modality of its rows."""


@dataclass(slots=True)
class _TowerInput:
    """The input of the next call of the tower.

    Attributes:
        ids: ``[batch, tokens]``, the prompt; None where it is unknown.
        tiles: tower rows of each picture; None if the pixels do not show it.
        widths: columns of each picture's grid of tiles; None if its size does not show it.
        crops: see :meth:`Signal.get_crop_index`; None until a layer needs it: it reads values back from the GPU.
    """

    ids: Tensor | None = None
    tiles: list[int] | None = None
    widths: list[int] | None = None
    crops: Tensor | None = None


class Signal:
    """The signal of the current batch.

    Args:
        model: the whole model; gets hooks that read the signal.

    Attributes:
        modality: ``[batch]``, index of each row's modality in :func:`~lora_mm.models.anatomy.list_modalities`
            (0 is text; a row with placeholders of several modalities has the last of them). None before the first
            forward.
        visual: ``[batch, tokens]``, whether a token of this forward is a placeholder.
        real: ``[batch, tokens]``, whether a token of this forward is not padding; None without an attention mask.
        crop_experts: number of crops that have an expert. If our slicer is used, a sliced picture takes one row
            more in the tower, for its overview. In a family that tiles pictures itself they are the places of a grid
            that is as wide as high, or one column wider.
    """

    def __init__(self, model: nn.Module) -> None:
        family = get_anatomy(model).family
        self.token_ids = list(get_placeholder_ids(model).values())
        self.crops, self.framed = family.crops, family.framed
        self.crop_experts = 0
        self.modality: Tensor | None = None
        self.visual: Tensor | None = None
        self.real: Tensor | None = None
        self._tower = _TowerInput()
        self._embedded_ids: Tensor | None = None
        self._kept = 0  # of the last tokens; Gemma 4's layers without keys of their own are run for these alone
        config: Any = model.config
        self._resolutions = getattr(config, "image_grid_pinpoints", None) or []
        self._tile_width = getattr(getattr(config, "vision_config", None), "image_size", 0)
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)
        if family.generates_inside:  # BLIP-2 embeds the prompt and has its language model generate
            inner = model.get_submodule(family.generates_inside)
            embedding = cast(PreTrainedModel, model).get_input_embeddings()
            embedding.register_forward_pre_hook(self._before_embedding)
            inner.register_forward_pre_hook(self._before_inside, with_kwargs=True)
            inner.register_forward_hook(self._after, with_kwargs=True)

    def get_modality(self, batch: int) -> Tensor:
        """Get ``modality``, checked against the batch size that a layer sees.

        Raises:
            LoraMMError: the two differ.
        """
        if self.modality is None or self.modality.shape[0] != batch:
            known = "none" if self.modality is None else str(self.modality.shape[0])
            raise LoraMMError(
                f"An adapter got {batch} rows, but the model's input had {known}. Call the whole model, not its "
                "layers, and keep one row per sample."
            )
        return self.modality

    def get_visual(self, batch: int, length: int, *, marks: bool = False) -> Tensor:
        """Get ``visual``, checked against what a layer sees.

        Args:
            batch: rows that the layer sees.
            length: tokens of a row that the layer sees.
            marks: whether the token before each run of placeholders counts as visual.

        Raises:
            LoraMMError: they differ.
        """
        known = None if self.visual is None else tuple(self.visual.shape)
        if known is None or known[0] != batch or length not in (known[1], self._kept):
            raise LoraMMError(
                f"An adapter got {batch} × {length} tokens, but the model's input had "
                f"{'none' if known is None else f'{known[0]} × {known[1]}'}. Call the whole model, not its layers."
            )
        visual = cast(Tensor, self.visual)
        visual = visual | nn.functional.pad(visual[:, 1:], (0, 1)) if marks else visual
        return visual[:, -length:]

    def get_real(self, count: int) -> Tensor | None:
        """Get ``real`` of each of the ``count`` tokens that a layer sees, ``[batch, tokens]``; None without padding."""
        return None if self.real is None else self.real[:, -(count // self.real.shape[0]) :]

    def get_folded_modality(self, count: int) -> Tensor:
        """Get ``modality`` of each of ``count`` tokens, for a layer that sees rows and tokens in one dimension."""
        batch = 0 if self.modality is None else self.modality.shape[0]
        rows = self.get_modality(batch if batch and count % batch == 0 else -1)
        return rows.repeat_interleave(count // batch)

    def get_folded_visual(self, count: int, *, marks: bool = False) -> Tensor:
        """Get ``visual`` of each of ``count`` tokens, for a layer that sees rows and tokens in one dimension."""
        batch = 1 if self.visual is None else self.visual.shape[0]
        return self.get_visual(batch, count // batch, marks=marks).flatten()

    def get_crop_index(self, rows: int) -> Tensor:
        """Get each tower row's crop: its row-major index in the picture's grid; :data:`OVERVIEW` for the whole picture.

        A crop beyond ``crop_experts`` counts as an overview, with a warning.

        Args:
            rows: number of rows of the tower, as a layer sees them.

        Returns:
            ``[rows]``.

        Raises:
            LoraMMError: the tower is called alone, or its pictures do not match the prompt.
        """
        tower = self._tower
        if tower.ids is None:
            raise LoraMMError("A tower with an adapter for each crop was called alone; call the whole model.")
        if tower.crops is None:
            index = compute_crop_index(
                self.crops,
                tower.ids,
                self.token_ids,
                rows,
                views=self.crop_experts + 1,
                framed=self.framed,
                sizes=tower.tiles,
                widths=tower.widths,
                columns=0 if self.crops == "none" else math.ceil(math.sqrt(self.crop_experts)),
            )
            if (index >= self.crop_experts).any():
                warnings.warn(
                    f"A picture has crops outside the {self.crop_experts} that have an expert; they get no adapter. "
                    "Train with more experts (adapters.N.experts) or fewer crops.",
                    stacklevel=2,
                )
            tower.crops = torch.where(index < self.crop_experts, index, OVERVIEW)
        if tower.crops.shape[0] != rows:
            raise LoraMMError(
                f"The tower got {rows} crops, but the prompt has placeholders for {tower.crops.shape[0]}. Call the "
                "whole model with the pictures of its prompt."
            )
        return tower.crops

    def announce_tower_input(
        self, input_ids: Tensor, pixels: Tensor | None, picture_sizes: Tensor | None = None
    ) -> None:
        """Record the input of the next call of the tower.

        Args:
            input_ids: ``[batch, tokens]``, the prompt.
            pixels: the pictures; ``[pictures, tiles, channels, height, width]`` if they are tiled.
            picture_sizes: ``[pictures, 2]``, height and width of each picture before it was tiled.
        """
        tiles = widths = None
        if self.crop_experts and pixels is not None and pixels.dim() == 5:
            tiles = count_tiles(pixels)
            if picture_sizes is not None:
                widths = [self._count_columns(size) for size in picture_sizes.tolist()]
        self._tower = _TowerInput(input_ids, tiles, widths)

    def _count_columns(self, size: list[int]) -> int:
        """Count the columns of LLaVA-NeXT's grid of tiles for a picture of this height and width."""
        _, width = select_best_resolution(tuple(size), self._resolutions)
        return int(width) // self._tile_width

    def _read_ids(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Modality of each row and whether each token is visual."""
        modality = torch.zeros(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
        visual = torch.zeros_like(input_ids, dtype=torch.bool)
        for index, token_id in enumerate(self.token_ids, start=1):
            is_placeholder = input_ids == token_id
            modality = torch.where(is_placeholder.any(dim=-1), index, modality)
            visual |= is_placeholder
        return modality, visual

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if input_ids is None:
            raise LoraMMError("Routing reads input_ids, but only inputs_embeds were given; pass input_ids too.")
        modality, self.visual = self._read_ids(input_ids)
        kept = kwargs.get("logits_to_keep")
        self._kept = kept if isinstance(kept, int) else 0
        mask = kwargs.get("attention_mask")
        length = input_ids.shape[1]
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= length:
            self.real = mask[:, -length:].bool()
        else:
            self.real = None
        self.announce_tower_input(input_ids, kwargs.get("pixel_values"), kwargs.get("image_sizes"))
        if module.training and torch.is_grad_enabled():
            _wrap_checkpointing(module, self)
        if cache is not None and cache.get_seq_length() > 0:
            cached = getattr(cache, _CACHED_MODALITY, None)
            if cached is None or cached.shape != modality.shape:
                raise LoraMMError(
                    "This key-value cache does not hold the modality of its rows: it was filled without the adapters, "
                    "or its rows were changed. Run the prompt through the adapted model first."
                )
            modality = torch.maximum(cached, modality)
        if cache is not None:
            setattr(cache, _CACHED_MODALITY, modality)
        self.modality = modality

    def snapshot(self) -> tuple[Any, ...]:
        """Get the signal of the current forward, for :meth:`restore`."""
        return self.modality, self.visual, self.real, self._tower

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Set the signal to that of the forward in which ``snapshot`` was taken."""
        self.modality, self.visual, self.real, self._tower = snapshot

    def _before_embedding(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._embedded_ids = args[0]

    def _before_inside(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Inside the whole model's forward this reads the same ids again, and changes nothing.
        input_ids, embeddings = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if input_ids is None and embeddings is not None and self._embedded_ids is not None:
            beams = max(1, embeddings.shape[0] // self._embedded_ids.shape[0])
            input_ids = self._embedded_ids.repeat_interleave(beams, dim=0)
        self._before(module, (), {**kwargs, "input_ids": input_ids})

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _CACHED_MODALITY, self.modality)
        if not torch.is_grad_enabled():  # else gradient checkpointing calls the tower again
            self._tower = _TowerInput()


class _RoutedCheckpoint:
    """A checkpointing function that recomputes a region with the signal of the forward that the region belongs to.

    In the backward the current signal may belong to a later batch, if two forwards came before the backward.
    """

    def __init__(self, checkpoint: Callable[..., Any], signal: Signal) -> None:
        self.checkpoint, self.signal = checkpoint, signal

    def __call__(self, region: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        snapshot = self.signal.snapshot()

        def run_with_snapshot(*inputs: Any, **options: Any) -> Any:
            current = self.signal.snapshot()
            self.signal.restore(snapshot)
            try:
                return region(*inputs, **options)
            finally:
                self.signal.restore(current)

        return self.checkpoint(run_with_snapshot, *args, **kwargs)


def _wrap_checkpointing(model: nn.Module, signal: Signal) -> None:
    """Wrap the checkpointing function that transformers sets on the layers, unless it is wrapped already.

    ``checkpoint(context_fn=…)`` gives the same gradients, but only without re-entry, and only if whoever enables
    checkpointing passes it. Without it, gradients are silently wrong (by 1e-3 on a tiny model, two batches before one
    backward); with it, ``TrainingArguments`` cannot be written as JSON.
    """
    name = "_gradient_checkpointing_func"
    for module in model.modules():
        checkpoint = module.__dict__.get(name)
        if checkpoint is not None and not isinstance(checkpoint, _RoutedCheckpoint):
            setattr(module, name, _RoutedCheckpoint(checkpoint, signal))
