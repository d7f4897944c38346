"""The registered operations: gradients by finite differences, opcheck, compiled, checkpointed, under autocast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lora_mm.ops.lowrank import make_uniform_update, routed_update
from lora_mm.ops.update import Norm, Update

EXPERTS, GROUPS, RANK = 2, 2, 4


def drawn(*size: int, dtype: torch.dtype = torch.float64, trained: bool = True) -> Tensor:
    return torch.randn(*size, dtype=dtype).requires_grad_(trained)


def parameters(width: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Of two experts with a shared A, as MMA has them."""
    return {
        "down": drawn(RANK, width, dtype=dtype),
        "up": drawn(EXPERTS, width, RANK // GROUPS, dtype=dtype),
        "down_bias": drawn(RANK, dtype=dtype),
        "up_bias": drawn(EXPERTS, width, dtype=dtype),
        "weights": drawn(2, 1, EXPERTS, dtype=dtype),
    }


def behind_norm(x: Tensor, norm: Tensor | None = None, **tensors: Tensor) -> Tensor:
    folded = None if norm is None else Norm(norm, 1e-6)
    return routed_update(x, x, **tensors, groups=GROUPS, scale=0.5, norm=folded)  # type: ignore[arg-type]


def beside_linear(x: Tensor, base: Tensor, **tensors: Tensor) -> Tensor:
    return routed_update(base, x, **tensors, groups=GROUPS, scale=0.5)  # type: ignore[arg-type]


def by_crop(x: Tensor, base: Tensor, down: Tensor, up: Tensor, scales: Tensor) -> Tensor:
    return routed_update(base, x, down, up, index=torch.tensor([1, -1, 0]), weights=scales, scale=0.5)


Case = tuple[Callable[..., Tensor], dict[str, Tensor]]


def case(name: str, dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(0)
    x = drawn(2, 3, 6, dtype=dtype)
    if name == "residual":
        return behind_norm, {"x": x, **parameters(6, dtype)}
    if name == "norm":
        return behind_norm, {"x": x, "norm": drawn(6, dtype=dtype, trained=False), **parameters(6, dtype)}
    if name == "linear":
        return beside_linear, {"x": x, "base": drawn(2, 3, 6, dtype=dtype), **parameters(6, dtype)}
    crops = {"x": drawn(3, 4, 5, dtype=dtype), "base": drawn(3, 4, 6, dtype=dtype), "down": drawn(8, 5, dtype=dtype)}
    return by_crop, {**crops, "up": drawn(2, 6, 4, dtype=dtype), "scales": drawn(2, dtype=dtype)}


CASES = ["residual", "norm", "linear", "crops"]


def gradients(run: Callable[..., Tensor], tensors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    trained = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    y = run(**tensors)
    return y.detach(), dict(
        zip(trained, torch.autograd.grad(y.float().square().sum(), [*trained.values()]), strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    run, tensors = case(name)
    assert torch.autograd.gradcheck(lambda *args: run(**dict(zip(tensors, args, strict=True))), [*tensors.values()])


def test_the_folded_norm_is_the_norm_before_the_update() -> None:
    run, tensors = case("norm")
    x, norm = tensors.pop("x"), tensors.pop("norm")

    def apart(x: Tensor, **rest: Tensor) -> Tensor:
        return run(norm * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)), **rest)

    y, grads = gradients(run, {"x": x, "norm": norm, **tensors})
    expected, reference = gradients(apart, {"x": x, **tensors})
    torch.testing.assert_close(y, expected)
    for key, grad in reference.items():
        torch.testing.assert_close(grads[key], grad, msg=key)


@pytest.mark.parametrize("op", ["project_down", "project_up", "residual"])
@pytest.mark.parametrize("kind", ["plain", "other"])
def test_opcheck(op: str, kind: str) -> None:
    """``other``: by crop or, for the residual, with the norm, biases, dropout and weights."""
    torch.manual_seed(0)
    index = torch.tensor([1, -1]) if kind == "other" else None
    experts = () if index is None else (2,)
    args: dict[str, tuple[Any, ...]] = {
        "project_down": (drawn(2, 3, 6), drawn(*experts, 4, 6), index, "torch"),
        "project_up": (drawn(2, 3, 6), drawn(2, 3, 4), drawn(*experts, 6, 4), index, "torch"),
    }
    if kind == "plain":
        update = make_uniform_update(drawn(4, 6), drawn(6, 4), 0.5, "torch")
        args["residual"] = (drawn(2, 3, 6), None, 0.0, *update.tensors, *update.settings)
    else:
        keep = torch.rand(2, 3, 4).double()
        update = Update(drawn(4, 6), drawn(6, 10), drawn(4), drawn(2, 1, 2), keep, None, 0.5, 2, 4, "torch")
        args["residual"] = (drawn(2, 3, 6), drawn(6, trained=False), 1e-6, *update.tensors, *update.settings)
    torch.library.opcheck(getattr(torch.ops.lora_mm, op).default, args[op])


@pytest.mark.parametrize("name", CASES)
def test_compiled_whole_it_gives_the_same(name: str) -> None:
    run, tensors = case(name, torch.float32)
    torch._dynamo.reset()
    y, grads = gradients(torch.compile(run, fullgraph=True, backend="aot_eager"), tensors)
    expected, reference = gradients(run, tensors)
    torch.testing.assert_close(y, expected)
    for key, grad in reference.items():
        torch.testing.assert_close(grads[key], grad, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_checkpointing_changes_nothing_and_two_backwards_agree_to_the_bit(name: str) -> None:
    run, tensors = case(name, torch.float32)
    y, grads = gradients(run, tensors)
    again = gradients(lambda **t: checkpoint(lambda: run(**t), use_reentrant=False), tensors)
    assert torch.equal(again[0], y)
    assert all(torch.equal(again[1][key], grad) for key, grad in grads.items())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_computes_in_the_dtype_of_its_input(name: str, dtype: torch.dtype) -> None:
    run, tensors = case(name, dtype)
    expected, reference = gradients(run, tensors)
    with torch.autocast("cpu", torch.bfloat16):
        y, grads = gradients(run, tensors)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    assert all(torch.equal(grads[key], grad) for key, grad in reference.items())


@pytest.mark.parametrize("name", CASES)
def test_of_all_tokens_times_width_only_x_is_kept(name: str) -> None:
    torch.manual_seed(0)
    run, tensors = case(name, torch.float32)
    tokens, width = 2 * 64, 96
    if name == "crops":
        x, base = drawn(3, 64, width, dtype=torch.float32), drawn(3, 64, width, dtype=torch.float32)
        tensors = {"x": x, "base": base, "down": drawn(8, width), "up": drawn(2, width, 4), "scales": drawn(2)}
        tensors = {key: tensor.detach().float().requires_grad_() for key, tensor in tensors.items()}
    else:
        tensors = {"x": drawn(2, 64, width, dtype=torch.float32), **parameters(width, torch.float32)}
        if name == "norm":
            tensors["norm"] = torch.ones(width)
        if name == "linear":
            tensors["base"] = drawn(2, 64, width, dtype=torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        run(**tensors)
    large = {t.untyped_storage().data_ptr() for t in kept if t.numel() >= tokens * width}
    assert large == {tensors["x"].untyped_storage().data_ptr()}
