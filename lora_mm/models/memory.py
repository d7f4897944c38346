"""Measures the size of the parts of a loaded model. Knows no adapters."""

from typing import Any

import torch
from torch import nn

from lora_mm.models.anatomy import find_part
from lora_mm.models.precision import find_quant_states


def measure_memory(model: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Measure part → (parameters, trainable parameters, bytes). A 4-bit tensor counts as the weights that it encodes.

    PEFT keeps the frozen original of a part that is trained whole beside the copy: it counts in the bytes only.
    """
    table: dict[str, tuple[int, int, int]] = {}
    get_base_model: Any = getattr(model, "get_base_model", None)
    root: nn.Module = model if get_base_model is None else get_base_model()
    states = find_quant_states(root)
    for name, parameter in root.named_parameters():
        part = find_part(root, name)
        state = states.get(id(parameter))
        count = _count_weights(parameter, state)
        if ".original_module." in name:
            count = 0
        total, trainable, size = table.get(part, (0, 0, 0))
        table[part] = (
            total + count,
            trainable + (count if parameter.requires_grad else 0),
            size + sum(tensor.numel() * tensor.element_size() for tensor in (parameter, *_list_scales(state))),
        )
    return table


def describe_quantization(model: nn.Module) -> str | None:
    """Say which share of a quantised base's weights is in 4 or 8 bits; None for a base that is not quantised.

    Parts in full precision are not in it, nor embeddings.

    Args:
        model: the base, with or without adapters.
    """
    get_base_model: Any = getattr(model, "get_base_model", None)
    root: Any = model if get_base_model is None else get_base_model()
    bits = 4 if getattr(root, "is_loaded_in_4bit", False) else 8 if getattr(root, "is_loaded_in_8bit", False) else None
    if bits is None:
        return None
    whole = {name: parameter for name, parameter in root.named_parameters() if not parameter.requires_grad}
    states = find_quant_states(root)
    sizes = {name: _count_weights(parameter, states.get(id(parameter))) for name, parameter in whole.items()}
    share = sum(sizes[name] for name, parameter in whole.items() if not parameter.is_floating_point()) / sum(
        sizes.values()
    )
    line = f"{share:.0%} of the base's weights are in {bits} bits"
    if share >= 0.5:
        return f"{line}."
    largest = max(
        (name for name, parameter in whole.items() if parameter.is_floating_point()), key=lambda name: sizes[name]
    )
    return f"Warning: only {line}; {largest} is the largest tensor in full precision."


def _count_weights(parameter: torch.Tensor, state: Any) -> int:
    """Number of weights in a tensor; of those that it encodes, if it has a state of 4 bits."""
    return int(parameter.numel() if state is None else state.shape.numel())


def _list_scales(state: Any) -> list[torch.Tensor]:
    """The scales of a 4-bit weight: the absmax of each block, and of each block of absmax if they are quantised too."""
    if state is None:
        return []
    return [state.absmax, *([state.state2.absmax] if state.nested else [])]


def format_memory(model: nn.Module) -> str:
    """Format the size of the parts of a loaded model in one line."""
    sizes = {part: size / 2**20 for part, (_, _, size) in measure_memory(model).items()}
    return f"{sum(sizes.values()):,.1f} MiB: {', '.join(f'{part} {size:,.1f}' for part, size in sizes.items())}"
