"""The one signal that every router reads: what kind of sample each row of the batch is, which tokens are visual, which
crop of its picture each row of the tower holds. Knows no adapter.

Published once a forward, from the token ids that the model is given anyway, so nobody has to pass it and no padding,
beam or cache can get it out of step. The modality travels with the key-value cache from prefill through decode.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_mm.adapters.crops import OVERVIEW, compute_crop_index, count_tiles
from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import get_anatomy, get_placeholder_ids

_KEPT = "_lora_mm_modality"


@dataclass(slots=True)
class _Tower:
    """What the next call of the tower is about.

    Attributes:
        ids: ``[batch, tokens]``, the prompt; None where nothing is known.
        tiles: tower rows of each picture, where the pixels tell.
        crops: see :meth:`Signal.crop_rows`; None until a layer asks, as it reads values back from the GPU.
    """

    ids: Tensor | None = None
    tiles: list[int] | None = None
    crops: Tensor | None = None


class Signal:
    """What is known of the batch now in the model.

    Attributes:
        modality: ``[batch]``, index of each row's modality in :func:`~lora_mm.models.anatomy.list_modalities`
            (0 is text; a row with placeholders of several modalities counts as the last of them). None before the
            first forward.
        visual: ``[batch, tokens]``, whether a token of this forward is a placeholder.
        real: ``[batch, tokens]``, whether a token of this forward is no padding; None where nobody said.
        crop_experts: crops that have an expert; 0 where none has. Where the slicer is ours, a sliced picture goes into
            as many rows of the tower and one for its overview.
    """

    def __init__(self, model: nn.Module) -> None:
        anatomy = get_anatomy(model)
        self.token_ids = list(get_placeholder_ids(model).values())
        self.crops, self.framed = anatomy.crops, anatomy.framed
        self.crop_experts = 0
        self.modality: Tensor | None = None
        self.visual: Tensor | None = None
        self.real: Tensor | None = None
        self._tower = _Tower()
        self._embedded: Tensor | None = None
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)
        if anatomy.generates_inside:  # BLIP-2 embeds the prompt and has its language model generate
            inner = model.get_submodule(anatomy.generates_inside)
            model.get_input_embeddings().register_forward_pre_hook(self._before_embedding)
            inner.register_forward_pre_hook(self._before_inside, with_kwargs=True)
            inner.register_forward_hook(self._after, with_kwargs=True)

    def rows(self, batch: int) -> Tensor:
        """``modality``, checked against the batch size that a layer sees."""
        if self.modality is None or self.modality.shape[0] != batch:
            known = "none" if self.modality is None else str(self.modality.shape[0])
            raise LoraMMError(
                f"An adapter met {batch} rows, but the modality of {known} is known. Call the whole model, not its "
                "layers, and keep one row per sample."
            )
        return self.modality

    def tokens(self, batch: int, length: int) -> Tensor:
        """``visual``, checked against what a layer sees."""
        if self.visual is None or tuple(self.visual.shape) != (batch, length):
            known = "none" if self.visual is None else " × ".join(map(str, self.visual.shape))
            raise LoraMMError(
                f"An adapter met {batch} × {length} tokens, but the kind of {known} is known. Call the whole model, "
                "not its layers."
            )
        return self.visual

    def folded(self, count: int) -> Tensor:
        """``modality`` of each of ``count`` tokens, of a layer that sees rows and tokens in one dimension."""
        batch = 0 if self.modality is None else self.modality.shape[0]
        rows = self.rows(batch if batch and count % batch == 0 else -1)
        return rows.repeat_interleave(count // batch)

    def visual_folded(self, count: int) -> Tensor:
        """``visual`` of each of ``count`` tokens, likewise."""
        batch = 1 if self.visual is None else self.visual.shape[0]
        return self.tokens(batch, count // batch).flatten()

    def crop_rows(self, rows: int) -> Tensor:
        """Place in its picture's grid of each of the tower's ``rows``, row-major; :data:`OVERVIEW` for the whole.

        Crops beyond ``crop_experts`` are counted as overviews, and that is said once.
        """
        tower = self._tower
        if tower.ids is None:
            raise LoraMMError("A tower with an adapter for each crop was called alone. Call the whole model.")
        if tower.crops is None:
            index = compute_crop_index(
                self.crops,
                tower.ids,
                self.token_ids,
                rows,
                views=self.crop_experts + 1,
                framed=self.framed,
                sizes=tower.tiles,
            )
            if (index >= self.crop_experts).any():
                warnings.warn(
                    f"A picture has more than {self.crop_experts} crops; those beyond stay as the base makes them. "
                    "Train with more experts (adapters.N.experts) or fewer crops.",
                    stacklevel=2,
                )
            tower.crops = torch.where(index < self.crop_experts, index, OVERVIEW)
        if tower.crops.shape[0] != rows:
            raise LoraMMError(
                f"The tower met {rows} crops, but the prompt has placeholders for {tower.crops.shape[0]}. Call the "
                "whole model with the pictures its prompt speaks of."
            )
        return tower.crops

    def announce(self, input_ids: Tensor, pixels: Tensor | None) -> None:
        """What the next call of the tower is about; ``pixels`` [pictures, tiles, …] where pictures are tiled."""
        tiled = self.crop_experts and pixels is not None and pixels.dim() == 5
        self._tower = _Tower(input_ids, count_tiles(pixels) if tiled else None)

    def _read(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Modality of each row and whether each token is visual."""
        modality = torch.zeros(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
        visual = torch.zeros_like(input_ids, dtype=torch.bool)
        for index, token_id in enumerate(self.token_ids, start=1):
            found = input_ids == token_id
            modality = torch.where(found.any(dim=-1), index, modality)
            visual |= found
        return modality, visual

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if input_ids is None:
            raise LoraMMError("Routing by modality reads input_ids, and only inputs_embeds were given; pass input_ids.")
        modality, self.visual = self._read(input_ids)
        mask = kwargs.get("attention_mask")
        length = input_ids.shape[1]
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= length:
            self.real = mask[:, -length:].bool()
        else:
            self.real = None
        self.announce(input_ids, kwargs.get("pixel_values"))
        if module.training and torch.is_grad_enabled():
            _remember(module, self)
        if cache is not None and cache.get_seq_length() > 0:
            kept = getattr(cache, _KEPT, None)
            if kept is None or kept.shape != modality.shape:
                raise LoraMMError(
                    "This key-value cache does not say which of its rows hold pictures: it was filled without the "
                    "adapters, or its rows were changed since. Run the prompt through the adapted model first."
                )
            modality = torch.maximum(kept, modality)
        if cache is not None:
            setattr(cache, _KEPT, modality)
        self.modality = modality

    def snapshot(self) -> tuple[Any, ...]:
        """All that is known of the forward now running, for :meth:`restore`."""
        return self.modality, self.visual, self.real, self._tower

    def restore(self, kept: tuple[Any, ...]) -> None:
        """Be again in the forward that ``kept`` is of."""
        self.modality, self.visual, self.real, self._tower = kept

    def _before_embedding(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._embedded = args[0]

    def _before_inside(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Inside the whole model's forward this reads the same ids once more, and changes nothing.
        input_ids, embeddings = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if input_ids is None and embeddings is not None and self._embedded is not None:
            beams = max(1, embeddings.shape[0] // self._embedded.shape[0])
            input_ids = self._embedded.repeat_interleave(beams, dim=0)
        self._before(module, (), {**kwargs, "input_ids": input_ids})

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _KEPT, self.modality)
        if not torch.is_grad_enabled():  # else gradient checkpointing calls the tower again
            self._tower = _Tower()


class _Remembering:
    """A checkpointing function whose regions are recomputed under the routing of the forward that they belong to.

    In the backward pass the signal may be about a later batch: of the second of two forwards before one backward.
    """

    def __init__(self, checkpoint: Callable[..., Any], signal: Signal) -> None:
        self.checkpoint, self.signal = checkpoint, signal

    def __call__(self, region: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kept = self.signal.snapshot()

        def remembered(*inputs: Any, **named: Any) -> Any:
            now = self.signal.snapshot()
            self.signal.restore(kept)
            try:
                return region(*inputs, **named)
            finally:
                self.signal.restore(now)

        return self.checkpoint(remembered, *args, **kwargs)


def _remember(model: nn.Module, signal: Signal) -> None:
    """Wrap the checkpointing function that transformers gave the layers, wherever it is not yet."""
    name = "_gradient_checkpointing_func"
    for module in model.modules():
        given = module.__dict__.get(name)
        if given is not None and not isinstance(given, _Remembering):
            setattr(module, name, _Remembering(given, signal))
