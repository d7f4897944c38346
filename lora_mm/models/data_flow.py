"""Checks an anatomy on a forward pass: which modules read the output of each norm. Knows no adapters.

Names can mislead: ``post_attention_layernorm`` feeds the feed-forward in Llama and the residual sum in OLMo 2. An
adapter on a norm must be where the formulas have it, on the input of attention or feed-forward.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lora_mm.models.anatomy import Stack, correct_anatomy, get_anatomy
from lora_mm.models.forward import move_batch
from lora_mm.models.layer_roles import NORM_READERS, list_readers

Readers = Mapping[str, set[str]]
"""Path of a norm → paths of the modules with weights that read its output. Norms that were not called are left out."""


@torch.no_grad()
def check_norms(model: nn.Module, batch: dict[str, Tensor]) -> list[str]:
    """Run the model, and take the roles from norms that do not feed what their role says.

    Args:
        model: a transformers model without adapters; its anatomy is corrected.
        batch: model inputs, with a picture if the model sees pictures; labels are not used.

    Returns:
        A line for each part with such norms.
    """
    anatomy = get_anatomy(model)
    corrected: dict[str, Any] = {"language": anatomy.language, "vision": anatomy.vision}
    others: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for part, stack in corrected.items():
        if stack is None:
            continue
        readers = _trace(model, stack, batch)
        norms = _list_norms(stack)
        misleading = [path for path, known in norms.items() if path in readers and not known & readers[path]]
        if misleading:
            notes.append(f"{misleading[0]} ({len(misleading)} such norms in part '{part}') does not feed attention or "
                         "feed-forward, so no adapter can go there.")  # fmt: skip
        corrected[part] = _remove_roles(stack, misleading)
        for path, known in norms.items():
            unlisted = tuple(sorted(readers.get(path, set()) - known - _list_containers(known)))
            if unlisted:
                others[path] = unlisted
    correct_anatomy(model, replace(anatomy, **corrected, other_readers=others))
    return notes


def _list_norms(stack: Stack) -> dict[str, set[str]]:
    """Path of a norm → paths of the modules that its role says read its output."""
    return {
        roles[norm]: {roles[role] for role in list_readers(roles, norm)}
        for roles in stack.roles
        for norm in NORM_READERS
        if norm in roles
    }


def _list_containers(paths: set[str]) -> set[str]:
    """List the paths of all modules that hold one of ``paths``."""
    steps = (path.split(".") for path in paths)
    return {".".join(path[:length]) for path in steps for length in range(1, len(path))}


def _remove_roles(stack: Stack, paths: list[str]) -> Stack:
    kept = ({role: path for role, path in roles.items() if path not in paths} for roles in stack.roles)
    return replace(stack, roles=tuple(kept))


def _trace(model: nn.Module, stack: Stack, batch: dict[str, Tensor]) -> Readers:
    """Run the model, and find what reads the norms of the layers of one part."""
    outputs: dict[str, Tensor] = {}
    readers: dict[str, set[str]] = {}

    def keep_output(path: str, output: Any) -> None:
        outputs[path], readers[path] = output, set()

    def find_norms(path: str, tensors: list[Tensor]) -> None:
        for norm, output in outputs.items():
            if path != norm and any(_is_same(tensor, output) for tensor in tensors):
                readers[norm].add(path)

    with ExitStack() as hooks:
        for layer, roles in zip(stack.layers, stack.roles, strict=True):
            block = model.get_submodule(layer)
            hooks.callback(block.register_forward_pre_hook(lambda *_: outputs.clear()).remove)
            for norm in NORM_READERS:
                if norm in roles:
                    module = model.get_submodule(roles[norm])
                    hook = module.register_forward_hook(lambda _, __, out, path=roles[norm]: keep_output(path, out))
                    hooks.callback(hook.remove)
            for name, module in block.named_modules():
                if any(True for _ in module.parameters(recurse=False)):
                    hooks.callback(_watch_inputs(module, f"{layer}.{name}", find_norms).remove)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        model(**move_batch(model, inputs), use_cache=False)
    return readers


def _watch_inputs(module: nn.Module, path: str, watch: Any) -> Any:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch(path, [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)])

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same values, in any shape, order and precision, with any number of zeros.

    Attention in windows reads the norm's output in another order, padded with zeros.
    """
    if not first.is_floating_point():
        return False
    summaries = [(x.amax(), x.amin(), x.abs().sum(), x.pow(4).sum()) for x in (first.double(), second.double())]
    return all(torch.isclose(a, b, rtol=1e-9, atol=0).item() for a, b in zip(*summaries, strict=True))
