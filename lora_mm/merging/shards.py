"""Writes a plain transformers checkpoint shard by shard, whatever the model in memory is. Knows no adapters."""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import find_part

MAX_SHARD_BYTES = 500_000_000
"""Maximum bytes of a file of weights, and of the tensors held in memory at once; a larger tensor gets its own file."""

_BIAS_FLAGS = ("attention_bias", "qkv_bias"), ("mlp_bias",)
"""Config flags that give biases to the linear layers of attention, and of the feed-forward."""


class CheckpointPlan:
    """The content of a checkpoint: the model without weights, unquantised, in the dtype of the files.

    Args:
        model: transformers model, with or without adapters.
        dtype: of the floating-point tensors in the files.
        biased: paths of linear layers that get a bias, even if ``model``'s layer has none.
        untied: paths of modules whose weights are saved separately, even if ``model`` ties them to others.

    Attributes:
        skeleton: empty model of the saved config (device ``meta``).
        tensors: name in ``skeleton`` → its shape and dtype (device ``meta``).
        lacking_bias: those of ``biased`` that no config of this family can give a bias.
        total_bytes: size of all files together, without headers.

    Raises:
        LoraMMError: checkpoints of this family cannot be written tensor by tensor.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype, *, biased: Iterable[str] = (), untied: Iterable[str] = ()
    ) -> None:
        config = copy.deepcopy(model.config)
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(config, name):
                delattr(config, name)
        without_bias = [path for path in biased if getattr(model.get_submodule(path), "bias", None) is None]
        tied = set(model.all_tied_weights_keys)
        no_longer_tied = {name for name in tied for path in untied if name.startswith(f"{path}.")}
        for section in _list_sections(config):
            section.dtype = dtype
            if no_longer_tied and getattr(section, "tie_word_embeddings", False):
                section.tie_word_embeddings = False
        for path in without_bias:
            _allow_bias(config, find_part(model, path), path)
        config.architectures = [type(model).__name__]
        with torch.device("meta"):
            self.skeleton = type(model)(config).to(dtype)
        self.skeleton._weight_conversions = getattr(model, "_weight_conversions", None)
        self.generation_config = model.generation_config if model.can_generate() else None
        skipped = (tied - no_longer_tied) | set(model._keys_to_ignore_on_save or ())
        self.tensors = {name: value for name, value in self.skeleton.state_dict().items() if name not in skipped}
        self.lacking_bias = [path for path in without_bias if f"{path}.bias" not in self.tensors]
        self._sources, saved = self._plan_saved_tensors()
        self._split = split_torch_state_dict_into_shards(saved, max_shard_size=MAX_SHARD_BYTES)
        self.total_bytes: int = self._split.metadata["total_size"]

    def write(self, folder: Path, get_tensor: Callable[[str], Tensor | None]) -> None:
        """Write weights, index and configs into ``folder``; memory holds the tensors of one shard at a time.

        Args:
            folder: an existing folder.
            get_tensor: name in ``skeleton`` → value in any dtype, on any device; None for zeros. Called once per name.

        Raises:
            LoraMMError: a tensor does not have the shape that the checkpoint needs.
        """
        converted: dict[str, Tensor] = {}  # at most one conversion waits for a later shard
        for file, names in self._split.filename_to_tensors.items():
            shard: dict[str, Tensor] = {}
            for name in names:
                if name not in converted:
                    converted |= self._convert(self._sources[name], get_tensor)
                shard[name] = converted.pop(name)
            save_file(shard, folder / file, metadata={"format": "pt"})
        if self._split.is_sharded:
            index = {"metadata": self._split.metadata, "weight_map": self._split.tensor_to_filename}
            text = json.dumps(index, indent=2) + "\n"
            (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        self.skeleton.config.save_pretrained(folder)
        if self.generation_config is not None:
            self.generation_config.save_pretrained(folder)

    def _plan_saved_tensors(self) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
        """Plan the tensors in the files: name → names in ``skeleton`` that it is made of, and name → shape and dtype.

        Hub checkpoints of some families use other names than the model's modules, or hold several modules' weights in
        one tensor (q, k and v) or one in several (the experts of a mixture); transformers converts them.
        """
        sources: dict[str, list[str]] = {}
        for source, value in self.tensors.items():
            for name in revert_weight_conversion(self.skeleton, {source: value}):
                sources.setdefault(name, []).append(source)
        whole = revert_weight_conversion(self.skeleton, dict(self.tensors))
        if set(sources) != set(whole):
            raise LoraMMError(f"{type(self.skeleton).__name__}: its checkpoints cannot be written tensor by tensor.")
        # A view counts with its whole storage, so each gets a storage of its own size.
        saved = {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in whole.items()}
        return sources, saved

    def _convert(self, sources: Iterable[str], get_tensor: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
        """Convert tensors that belong together to the form of the files: name in the files → value on the CPU."""
        values = {source: self._get_value(source, get_tensor) for source in sources}
        converted = revert_weight_conversion(self.skeleton, values)
        return {name: tensor.contiguous() for name, tensor in converted.items()}

    def _get_value(self, source: str, get_tensor: Callable[[str], Tensor | None]) -> Tensor:
        planned = self.tensors[source]
        value = get_tensor(source)
        value = torch.zeros_like(planned, device="cpu") if value is None else value.detach()
        if value.shape != planned.shape:
            raise LoraMMError(f"{source}: shape {tuple(value.shape)}, but the checkpoint needs {tuple(planned.shape)}.")
        return value.to("cpu", planned.dtype)


def _list_sections(config: Any) -> list[Any]:
    """``config`` and all configs inside it."""
    inner = [getattr(config, name) for name in getattr(config, "sub_configs", {})]
    return [config, *(section for part in inner if part is not None for section in _list_sections(part))]


def _allow_bias(config: Any, part: str, path: str) -> None:
    """Set the flag that gives the linear layer at ``path`` a bias, if the family's config has one."""
    section = config.get_text_config() if part == "language" else getattr(config, "vision_config", config)
    attention, feed_forward = _BIAS_FLAGS
    for flag in feed_forward if ".mlp." in path else attention:
        if hasattr(section, flag):
            setattr(section, flag, True)
