"""Counts what a model allocates and computes, by running it without its weights. Knows torch; knows no adapters.

Floating-point tensors have shapes and no data (torch's ``meta`` device). Integers and masks are real, because a model's
code branches on them: which tokens are placeholders, how many tiles a picture has. The model runs unchanged: forward,
backward and optimiser, in seconds and without memory, and every tensor that is allocated and freed is counted.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

META = torch.device("meta")

_aten = torch.ops.aten
_ATTENTION = _aten._scaled_dot_product_flash_attention_for_cpu
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_INTEGER_BY_DEFAULT = {_aten.arange.default, _aten.arange.start, _aten.arange.start_step}
"""Operations that return integers if no dtype is given."""


class Usage(TorchDispatchMode):
    """Counts what is allocated and computed under it, with data or without.

    Attributes:
        now: bytes of the tensors that were made under it and are still alive. A storage counts once, in
            full, however many views it has.
        peak: the maximum of ``now``.
        flops: floating-point operations of the matrix products, convolutions and attentions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _run(func, args, dict(kwargs or {}))
        inputs = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            if id(tensor.untyped_storage()) not in inputs:  # views and in-place results are not new
                self._count(tensor.untyped_storage())
        count_flops = _FLOP_COUNTERS.get(func.overloadpacket) or _FLOP_COUNTERS.get(str(func.overloadpacket))
        if count_flops is not None:
            self.flops += count_flops(*args, **(kwargs or {}), out_val=out)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._subtract, storage.nbytes())

    def _subtract(self, size: int) -> None:
        self.now -= size


@contextmanager
def count_usage() -> Iterator[Usage]:
    """Let models on :data:`META` run on real batches, and count what they use."""
    unpatched = F.scaled_dot_product_attention

    def attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (_run_fused_attention if query.device == META else unpatched)(query, *args, **kwargs)

    F.scaled_dot_product_attention = attention  # a function mode is not active while a checkpoint is recomputed
    try:
        with Usage() as usage:
            yield usage
    finally:
        F.scaled_dot_product_attention = unpatched


def _run_fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Attention as in a GPU's fused kernels, which do not keep the matrix of scores."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)  # as PyTorch does, which adds it to the scores
    out: Tensor = _ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return out


def _count_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _count_attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def _count_gemm_4bit(x: Tensor, data: Tensor, shape: list[int], *_: Any, **__: Any) -> int:
    return 2 * x.numel() * shape[0]


def _count_int8_product(x: Tensor, rows: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * rows.numel() * weight.shape[0]


def _count_grouped_product(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight.shape[-1]


_FLOP_COUNTERS: dict[Any, Any] = flop_registry | {
    "bitsandbytes.gemm_4bit": _count_gemm_4bit,
    "bitsandbytes.int8_mixed_scaled_mm": _count_int8_product,
    _aten._grouped_mm: _count_grouped_product,
    _ATTENTION: _count_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _count_attention_backward,
}


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation; if one of its tensors has no data, its results have none either."""
    tensors = _tensors((args, kwargs))
    is_weightless = any(tensor.device == META for tensor in tensors)
    if func is _aten._to_copy.default:
        if kwargs.get("device") is not None:  # a tensor keeps its data, or stays without
            kwargs["device"] = tensors[0].device
    elif not tensors and kwargs.get("device") == META and _returns_integers(func, kwargs.get("dtype")):
        kwargs["device"] = torch.device("cpu")
    if is_weightless:
        shapes = _SHAPES.get(str(func.overloadpacket))
        if shapes is not None:
            return shapes(*args, **kwargs)
        if func in _INDEXING:
            args = (args[0], _replace_masks(args[1]), *args[2:])
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, kwargs))
    return func(*args, **kwargs)


def _make_bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    return x.new_empty(minlength)


def _make_int8_quantised(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
    """Values and the maximum of each row; no outliers."""
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x[..., 0].numel(), dtype=torch.float32), None


def _make_int8_product(x: Tensor, rows: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    return x.new_empty(*rows.shape[:-1], weight.shape[0]), None


def _make_grouped_product(x: Tensor, weight: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The product of each group of rows with its own matrix, as the experts of a mixture are run."""
    if x.dim() == weight.dim() == 2:
        assert offsets is not None
        return x.new_empty(len(offsets), x.shape[0], weight.shape[1])
    return x.new_empty(*x.shape[:-1], weight.shape[-1])


_SHAPES: dict[str, Any] = {
    "aten._grouped_mm": _make_grouped_product,
    "aten.bincount": _make_bincount,
    "bitsandbytes.int8_vectorwise_quant": _make_int8_quantised,
    "bitsandbytes.int8_mixed_scaled_mm": _make_int8_product,
}
"""Operation whose results' shapes depend on data → function that makes the results here."""


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _returns_integers(func: Any, dtype: torch.dtype | None) -> bool:
    return func in _INTEGER_BY_DEFAULT if dtype is None else not (dtype.is_floating_point or dtype.is_complex)


def _replace_masks(index: list[Tensor | None]) -> list[Tensor | None]:
    """An index with its masks replaced by the positions where they are true; masks without data stay."""
    positions: list[Tensor | None] = []
    for item in index:
        mask = item is not None and item.dtype == torch.bool and item.device != META
        positions += item.nonzero().unbind(1) if mask and item is not None else [item]
    return positions
