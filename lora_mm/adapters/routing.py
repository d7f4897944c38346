"""The one signal that every router reads: what kind of sample each row of the batch is. Knows no adapter.

Published once a forward, from the token ids that the model is given anyway, so nobody has to pass it and no padding,
beam or cache can get it out of step. It travels with the key-value cache from prefill through decode.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import anatomy_of, modalities

_KEPT = "_lora_mm_modality"


class Signal:
    """What is known of the batch now in the model.

    Attributes:
        modality: ``[batch]``, index of each row's modality in :func:`~lora_mm.models.anatomy.modalities`
            (0 is text; a row with placeholders of several modalities counts as the last of them). None before the
            first forward.
    """

    def __init__(self, model: nn.Module) -> None:
        placeholders = anatomy_of(model).placeholders
        self.token_ids = [getattr(model.config, placeholders[name]) for name in modalities(model)[1:]]
        self.modality: Tensor | None = None
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)

    def rows(self, batch: int) -> Tensor:
        """``modality``, checked against the batch size that a layer sees."""
        if self.modality is None or self.modality.shape[0] != batch:
            known = "none" if self.modality is None else str(self.modality.shape[0])
            raise LoraMMError(
                f"An adapter met {batch} rows, but the modality of {known} is known. Call the whole model, not its "
                "layers, and keep one row per sample."
            )
        return self.modality

    def _read(self, input_ids: Tensor) -> Tensor:
        modality = torch.zeros(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
        for index, token_id in enumerate(self.token_ids, start=1):
            modality = torch.where((input_ids == token_id).any(dim=-1), index, modality)
        return modality

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if input_ids is None:
            raise LoraMMError("Routing by modality reads input_ids, and only inputs_embeds were given; pass input_ids.")
        modality = self._read(input_ids)
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

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _KEPT, self.modality)
