"""Writing a plain transformers checkpoint tensor by tensor, whatever the model in memory is. Knows no adapters."""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import find_part

MAX_SHARD_BYTES = 500_000_000
"""Bytes of a file of weights at most, and so of tensors held at once; a larger tensor has a file of its own."""

_BIAS_FLAGS = ("attention_bias", "qkv_bias"), ("mlp_bias",)
"""Names under which configs say that attention's, or the feed-forward's, linear layers have biases."""


class CheckpointPlan:
    """What a checkpoint will hold: the model without weights, unquantised, in the dtype that it is saved in.

    Args:
        model: as transformers made it; what adapters put into it does not matter.
        dtype: of the floating-point tensors.
        biased: paths of linear layers that need a bias, though ``model``'s may have none.
        own: paths of modules whose weights are their own, though ``model`` may tie them to others.

    Attributes:
        skeleton: an empty model of the saved config.
        tensors: name in ``skeleton`` → its place, shape and dtype (on the meta device).
        unbiased: of ``biased``, the paths that no config of this family gives a bias.
        size: bytes in all.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, biased: Iterable[str] = (), own: Iterable[str] = ()) -> None:
        config = copy.deepcopy(model.config)
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(config, name):
                delattr(config, name)
        lacking = [path for path in biased if getattr(model.get_submodule(path), "bias", None) is None]
        tied = set(model.all_tied_weights_keys)
        untied = {name for name in tied for path in own if name.startswith(f"{path}.")}
        for section in _sections(config):
            section.dtype = dtype
            if untied and getattr(section, "tie_word_embeddings", False):
                section.tie_word_embeddings = False
        for path in lacking:
            _allow_bias(config, find_part(model, path), path)
        config.architectures = [type(model).__name__]
        with torch.device("meta"):
            self.skeleton = type(model)(config).to(dtype)
        self.skeleton._weight_conversions = getattr(model, "_weight_conversions", None)
        self.generation = model.generation_config if model.can_generate() else None
        left_out = tied - untied | set(model._keys_to_ignore_on_save or ())
        self.tensors = {name: value for name, value in self.skeleton.state_dict().items() if name not in left_out}
        self.unbiased = [path for path in lacking if f"{path}.bias" not in self.tensors]
        self.size = sum(value.numel() * value.element_size() for value in self.tensors.values())

    def write(self, folder: Path, tensor: Callable[[str], Tensor | None]) -> None:
        """Write weights, index and configs into ``folder``.

        Args:
            tensor: the value of the tensor of a name, in any dtype and on any device; None for zeros. Asked once for
                each, in order; no more of them than a shard holds are kept.

        Raises:
            LoraMMError: for a family whose checkpoints cannot be written tensor by tensor.
        """
        names = self._saved_names()
        files: list[dict[str, None]] = []
        held: dict[str, Tensor] = {}
        room = MAX_SHARD_BYTES
        for name, like in self.tensors.items():
            size = like.numel() * like.element_size()
            if held and size > room:
                _flush(folder, files, held)
                held, room = {}, MAX_SHARD_BYTES
            value = tensor(name)
            value = torch.zeros_like(like, device="cpu") if value is None else value.detach()
            if value.shape != like.shape:
                raise LoraMMError(f"{name} is {tuple(value.shape)}, a checkpoint has {tuple(like.shape)} there.")
            held |= _saved(self.skeleton, name, value.to("cpu", like.dtype))
            room -= size
        _flush(folder, files, held)
        _name_files(folder, files, self.size)
        if {name for file in files for name in file} != names:
            raise LoraMMError(f"{type(self.skeleton).__name__}: its checkpoints cannot be written tensor by tensor.")
        self.skeleton.config.save_pretrained(folder)
        if self.generation is not None:
            self.generation.save_pretrained(folder)

    def _saved_names(self) -> set[str]:
        """Names in the files, as transformers itself would write them all at once."""
        return set(revert_weight_conversion(self.skeleton, dict(self.tensors)))


def _sections(config: Any) -> list[Any]:
    """``config`` and the configs inside it."""
    inside = [getattr(config, name) for name in getattr(config, "sub_configs", {})]
    return [config, *(section for part in inside if part is not None for section in _sections(part))]


def _allow_bias(config: Any, part: str, path: str) -> None:
    """Set the flag that gives the linear layer at ``path`` a bias, where the family's config has one."""
    section = config.get_text_config() if part == "language" else getattr(config, "vision_config", config)
    attention, feed_forward = _BIAS_FLAGS
    for flag in feed_forward if ".mlp." in path else attention:
        if hasattr(section, flag):
            setattr(section, flag, True)


def _saved(skeleton: nn.Module, name: str, value: Tensor) -> dict[str, Tensor]:
    """What becomes of one tensor in the file: mostly itself under the name that the family's hub checkpoints have."""
    made = revert_weight_conversion(skeleton, {name: value})
    return {key: tensor.contiguous() for key, tensor in made.items()}


def _flush(folder: Path, files: list[dict[str, None]], held: dict[str, Tensor]) -> None:
    save_file(held, folder / _part(len(files)), metadata={"format": "pt"})
    files.append(dict.fromkeys(held))


def _part(index: int) -> str:
    return f"part-{index}.safetensors"


def _name_files(folder: Path, files: list[dict[str, None]], size: int) -> None:
    """Give the files the names that transformers looks for, which tell how many there are, and write the index."""
    if len(files) == 1:
        (folder / _part(0)).rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for index, names in enumerate(files):
        file = f"model-{index + 1:05}-of-{len(files):05}.safetensors"
        (folder / _part(index)).rename(folder / file)
        where |= dict.fromkeys(names, file)
    table = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
