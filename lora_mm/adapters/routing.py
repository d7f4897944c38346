"""The one signal that every router reads: what kind of sample each row of the batch is, which tokens are visual, which
crop of its picture each row of the tower holds. Knows no adapter.

Published once a forward, from the token ids that the model is given anyway, so nobody has to pass it and no padding,
beam or cache can get it out of step. The modality travels with the key-value cache from prefill through decode.
"""

import warnings
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import anatomy_of, placeholder_ids

_KEPT = "_lora_mm_modality"
OVERVIEW = -1
"""Crop index of a tower row that shows the whole picture."""


class Signal:
    """What is known of the batch now in the model.

    Attributes:
        modality: ``[batch]``, index of each row's modality in :func:`~lora_mm.models.anatomy.modalities`
            (0 is text; a row with placeholders of several modalities counts as the last of them). None before the
            first forward.
        visual: ``[batch, tokens]``, whether a token of this forward is a placeholder.
        real: ``[batch, tokens]``, whether a token of this forward is no padding; None where nobody said.
        crop_experts: crops that have an expert; 0 where none has. Where the slicer is ours, a sliced picture goes into
            as many rows of the tower and one for its overview.
    """

    def __init__(self, model: nn.Module) -> None:
        anatomy = anatomy_of(model)
        self.token_ids = list(placeholder_ids(model).values())
        self.crops = anatomy.crops
        self.crop_experts = 0
        self.modality: Tensor | None = None
        self.visual: Tensor | None = None
        self.real: Tensor | None = None
        self._ids: Tensor | None = None
        self._tiles: list[int] | None = None
        self._crop_rows: Tensor | None = None
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
        if self._ids is None:
            raise LoraMMError("A tower with an adapter for each crop was called alone. Call the whole model.")
        if self._crop_rows is None:  # once a forward, as it reads values back from the GPU
            sizes = self._tiles
            index = crop_index(self.crops, self._ids, self.token_ids, rows, views=self.crop_experts + 1, sizes=sizes)
            if (index >= self.crop_experts).any():
                warnings.warn(
                    f"A picture has more than {self.crop_experts} crops; those beyond stay as the base makes them. "
                    "Train with more experts (adapters.N.experts) or fewer crops.",
                    stacklevel=2,
                )
            self._crop_rows = torch.where(index < self.crop_experts, index, OVERVIEW)
        if self._crop_rows.shape[0] != rows:
            raise LoraMMError(
                f"The tower met {rows} crops, but the prompt has placeholders for {self._crop_rows.shape[0]}. Call the "
                "whole model with the pictures its prompt speaks of."
            )
        return self._crop_rows

    def announce(self, input_ids: Tensor, pixels: Tensor | None) -> None:
        """What the next call of the tower is about; ``pixels`` [pictures, tiles, …] where pictures are tiled."""
        self._ids, self._crop_rows = input_ids, None
        self._tiles = _tiles(pixels) if self.crop_experts and pixels is not None and pixels.dim() == 5 else None

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
            self._ids = self._crop_rows = None


def crop_index(
    crops: str, ids: Tensor, token_ids: list[int], rows: int, *, views: int = 1, sizes: list[int] | None = None
) -> Tensor:
    """Which crop each row of a tower holds, ``[rows]``.

    Args:
        crops: how the family lays crops out (``Anatomy.crops``).
        ids: ``[batch, tokens]``, the prompt.
        token_ids: of visual placeholders.
        rows: of the tower.
        views: rows of a sliced picture, where the family does not slice by itself.
        sizes: rows of each picture, where the pixels tell.
    """
    first = crops == "overview_first"
    if not torch.isin(ids, torch.tensor(token_ids, device=ids.device)).any() or (first and sizes is None):
        sizes = [1] * rows  # pictures that no token stands for (BLIP's dummy), or that were not tiled
    elif not first:
        runs = _runs(ids, token_ids)
        counts = _rows_of_runs(runs, rows)
        if crops == "overview_last":
            sizes = _tiled(ids, runs, counts)
        elif crops == "quarters":
            sizes = _sliced(_chained(runs, counts), views=5)
        else:
            sizes = _sliced(counts, views)
    places = [list(range(size - 1)) for size in sizes or []]
    found = [[OVERVIEW, *place] if first else [*place, OVERVIEW] for place in places]
    return torch.tensor(list(chain.from_iterable(found)), device=ids.device)


Run = tuple[int, int, int]
"""A run of placeholders: row of the batch, start and length."""


def _runs(ids: Tensor, token_ids: list[int]) -> list[Run]:
    """The runs of placeholders, in order."""
    visual = torch.isin(ids, torch.tensor(token_ids, device=ids.device)).long()
    edges = torch.diff(nn.functional.pad(visual, (1, 1)))
    starts, ends = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
    return [(row, start, end - start) for (row, start), (_, end) in zip(starts, ends, strict=True)]


def _rows_of_runs(runs: list[Run], rows: int) -> list[int]:
    """Tower rows behind each run, all rows having equally many placeholders; empty where that cannot be."""
    total = sum(length for *_, length in runs)
    each = total // rows
    return [length // each for *_, length in runs] if each and total == each * rows else []


def _sliced(counts: list[int], views: int) -> list[int]:
    """Tower rows of each picture: ``views``, or one where a run has rows that do not come out even: not sliced."""
    sizes: list[int] = []
    for count in counts:
        sizes += [views] * (count // views) if count % views == 0 else [1] * count
    return sizes


def _chained(runs: list[Run], counts: list[int]) -> list[int]:
    """``counts`` with those of runs put together that only one token parts."""
    chained: list[int] = []
    end = (-1, -1)
    for (row, start, length), count in zip(runs, counts, strict=False):
        if (row, start - 1) == end:
            chained[-1] += count
        else:
            chained.append(count)
        end = (row, start + length)
    return chained


def _tiled(ids: Tensor, runs: list[Run], counts: list[int]) -> list[int]:
    """Tower rows of each picture where the overview comes last.

    InternVL's crops of one picture are one run. Idefics3's are a run each, and the token before an overview is always
    the same one: the token before a sample's last run.
    """
    if any(count != 1 for count in counts):
        return counts
    before = [int(ids[row, start - 1]) for row, start, _ in runs]
    last = {row: token for (row, *_), token in zip(runs, before, strict=True)}
    sizes, size = [], 0
    for (row, *_), token in zip(runs, before, strict=True):
        size += 1
        if token == last[row]:
            sizes.append(size)
            size = 0
    return sizes


def _tiles(pixels: Tensor) -> list[int]:
    """Tower rows of each picture; ``pixels`` [pictures, tiles, channels, height, width].

    Pictures with fewer tiles than the most are padded with zeros, and the model leaves those tiles out.
    """
    return [max(1, int(count)) for count in pixels.flatten(2).any(dim=-1).sum(dim=-1)]
