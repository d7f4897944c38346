"""What a model would allocate and compute, found by running it without its weights. Knows torch; knows no adapters.

Floating-point tensors have shapes and no data (torch's ``meta`` device). Whole numbers and masks are real, as a model's
own code asks them what to do: which tokens stand for pictures, how many tiles a picture has. So the model runs as it
is, forward, backward and optimiser, in seconds and in no memory, and every tensor that comes and goes is counted.
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
_LIKE = {_aten.arange.default, _aten.arange.start, _aten.arange.start_step}
"""Whole numbers where no dtype is said."""


class Usage(TorchDispatchMode):
    """Counts what is allocated and computed under it, with data or without.

    Attributes:
        now, peak: bytes of the tensors made under it that are still there, and the most there were at once. A storage
            counts whole and once, whatever views there are of it.
        flops: operations of the matrix products, convolutions and attentions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _run(func, args, dict(kwargs or {}))
        given = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            if id(tensor.untyped_storage()) not in given:  # what an operation only views or writes into was there
                self._count(tensor.untyped_storage())
        work = _WORK.get(func.overloadpacket) or _WORK.get(str(func.overloadpacket))
        if work is not None:
            self.flops += work(*args, **(kwargs or {}), out_val=out)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self.now -= size


@contextmanager
def count_usage() -> Iterator[Usage]:
    """Within it, models on :data:`META` run on real batches, and what they use is counted."""
    whole = F.scaled_dot_product_attention

    def attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (_fused_attention if query.device == META else whole)(query, *args, **kwargs)

    F.scaled_dot_product_attention = attention  # a function mode would not be there where a checkpoint is run again
    try:
        with Usage() as usage:
            yield usage
    finally:
        F.scaled_dot_product_attention = whole


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """As the fused kernels of a GPU do it: no scores of all tokens by all tokens are kept."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)  # as PyTorch does, to add it
    out: Tensor = _ATTENTION(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return out


def _attention_work(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_bwd_work(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def _gemm_4bit_work(x: Tensor, data: Tensor, shape: list[int], *_: Any, **__: Any) -> int:
    return 2 * x.numel() * shape[0]


def _int8_work(x: Tensor, rows: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * rows.numel() * weight.shape[0]


_WORK: dict[Any, Any] = flop_registry | {
    "bitsandbytes.gemm_4bit": _gemm_4bit_work,
    "bitsandbytes.int8_mixed_scaled_mm": _int8_work,
    _ATTENTION: _attention_work,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_bwd_work,
}


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """``func`` where some of its tensors have no data, and so has what comes of them."""
    tensors = _tensors((args, kwargs))
    without = any(tensor.device == META for tensor in tensors)
    if func is _aten._to_copy.default:
        if kwargs.get("device") is not None:  # what has data keeps it, what has none cannot get it
            kwargs["device"] = tensors[0].device
    elif not tensors and kwargs.get("device") == META and _whole(func, kwargs.get("dtype")):
        kwargs["device"] = torch.device("cpu")
    if without:
        shapes = _SHAPES.get(str(func.overloadpacket))
        if shapes is not None:
            return shapes(*args, **kwargs)
        if func in _INDEXING:
            args = (args[0], _places(args[1]), *args[2:])
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, kwargs))
    return func(*args, **kwargs)


def _bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    return x.new_empty(minlength)


def _int8_quantised(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
    """Values, and each row's largest; no outliers apart."""
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x[..., 0].numel(), dtype=torch.float32), None


def _int8_product(x: Tensor, rows: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    return x.new_empty(*rows.shape[:-1], weight.shape[0]), None


_SHAPES: dict[str, Any] = {
    "aten.bincount": _bincount,
    "bitsandbytes.int8_vectorwise_quant": _int8_quantised,
    "bitsandbytes.int8_mixed_scaled_mm": _int8_product,
}
"""Operations whose results' sizes depend on data, and those they have here."""


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _whole(func: Any, dtype: torch.dtype | None) -> bool:
    return func in _LIKE if dtype is None else not (dtype.is_floating_point or dtype.is_complex)


def _places(index: list[Tensor | None]) -> list[Tensor | None]:
    """An index with its masks as the places where they hold, as long as those can be counted."""
    places: list[Tensor | None] = []
    for item in index:
        mask = item is not None and item.dtype == torch.bool and item.device != META
        places += item.nonzero().unbind(1) if mask and item is not None else [item]
    return places
