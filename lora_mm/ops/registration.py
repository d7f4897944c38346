"""Registers operations with ``torch.library``, so that ``torch.compile`` does not trace into them. Defines none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lora_mm.ops.autocast import without_autocast


def register_operation(
    name: str,
    schema: str,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Register ``forward`` as ``lora_mm::name`` and return the function that calls it.

    Outside of ``torch.compile`` the same functions run as a ``torch.autograd.Function``, because the dispatcher's
    overhead in Python is large for a small adapter. The function's ``forward`` sets up the context: with a separate
    ``setup_context``, ``apply`` would bind the arguments to a signature at every call.

    Args:
        name: of the operation, without the namespace.
        schema: its arguments and results, in the syntax of ``torch.library``. It has no records: the caller passes
            the fields of a record, and ``forward`` puts them together.
        forward: the operation.
        fake: returns empty results with the right shapes and dtypes.
        backward: returns the gradients of all arguments, given ``ctx`` and the gradients of the results; None for an
            operation that is not differentiable.
        setup_context: saves on ``ctx`` what ``backward`` needs; given together with ``backward``.

    Returns:
        A function with the arguments of ``forward`` that ignores autocast.
    """
    op = torch.library.custom_op(f"lora_mm::{name}", forward, mutates_args=(), schema=schema)
    op.register_fake(fake)
    eager = forward
    if backward is not None and setup_context is not None:
        op.register_autograd(backward, setup_context=setup_context)
        eager = _make_function(name, forward, backward, setup_context).apply

    def call(*args: Any) -> Any:
        first: Tensor = args[0]
        run = op if torch.compiler.is_compiling() or type(first) is not Tensor else eager
        run = forward if run is eager and not torch.is_grad_enabled() else run
        with without_autocast(first):
            return run(*args)

    call.__doc__ = forward.__doc__
    return call


def _make_function(
    name: str, forward: Callable[..., Any], backward: Callable[..., Any], setup_context: Callable[..., None]
) -> Any:
    def forward_and_save(ctx: Any, *args: Any) -> Any:
        output = forward(*args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward_and_save), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), methods)
