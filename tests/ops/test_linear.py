"""FrozenLinear linear layers with updates, as one function: against autograd's own way, and what is kept."""

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lora_mm.ops import linear
from lora_mm.ops.linear import FrozenLinear, adapted_linears
from lora_mm.ops.lowrank import make_uniform_update, make_update, routed_update
from lora_mm.ops.update import Update

Layer = tuple[FrozenLinear, Update]


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Layer]]:
    """An input and q, k, v of different widths; k has a bias."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, dtype=dtype, requires_grad=True)
    layers = [
        (
            FrozenLinear(torch.randn(out, 6, dtype=dtype), torch.randn(out, dtype=dtype) if out == 4 else None),
            make_uniform_update(
                torch.randn(rank, 6, dtype=dtype, requires_grad=True),
                torch.randn(out, rank, dtype=dtype, requires_grad=True),
                scale,
            ),
        )
        for out, rank, scale in ((8, 3, 0.5), (4, 2, 1.0), (4, 2, -2.0))
    ]
    return x, layers


def trained(x: Tensor, layers: list[Layer]) -> list[Tensor]:
    return [x, *(tensor for _, update in layers for tensor in (update.down, update.columns))]


def separately(x: Tensor, layers: list[Layer]) -> list[Tensor]:
    return [
        F.linear(x, frozen.weight, frozen.bias) + update.scale * F.linear(F.linear(x, update.down), update.columns)  # type: ignore[arg-type]
        for frozen, update in layers
    ]


def gradients(outputs: list[Tensor], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(sum((y.float().square() * (n + 1)).sum() for n, y in enumerate(outputs)), tensors)


def test_results_and_gradients_are_those_of_the_layers_one_by_one() -> None:
    x, layers = drawn()
    ours, theirs = adapted_linears(x, layers), separately(x, layers)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(gradients([*ours], trained(x, layers)), gradients(theirs, trained(x, layers)), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_those_of_finite_differences() -> None:
    x, layers = drawn()

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(layers, tensors[::2], tensors[1::2], strict=True)
        return adapted_linears(
            x, [(frozen, make_uniform_update(a, b, update.scale)) for (frozen, update), a, b in pairs]
        )

    assert torch.autograd.gradcheck(run, trained(x, layers))


def test_an_output_that_is_not_used_is_no_matter() -> None:
    x, layers = drawn()
    q, _, v = adapted_linears(x, layers)
    ours = torch.autograd.grad(q.sum() + v.sum(), [x, layers[0][1].columns, layers[2][1].down])
    q, _, v = separately(x, layers)
    for one, other in zip(
        ours, torch.autograd.grad(q.sum() + v.sum(), [x, layers[0][1].columns, layers[2][1].down]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_checkpointing_changes_nothing() -> None:
    x, layers = drawn(torch.float32)
    plain = gradients([*adapted_linears(x, layers)], trained(x, layers))
    again = checkpoint(lambda x: adapted_linears(x, layers), x, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients([*again], trained(x, layers)), plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masters_stay_fp32_and_an_update_of_zero_changes_no_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 16, dtype=dtype), torch.randn(12, 16, dtype=dtype)
    down, up = torch.randn(4, 16, requires_grad=True), torch.zeros(12, 4, requires_grad=True)
    (y,) = adapted_linears(x, [(FrozenLinear(weight, None), make_uniform_update(down, up, 2.0))])
    assert torch.equal(y, F.linear(x, weight))
    y.float().sum().backward()
    assert up.grad is not None
    assert up.grad.dtype == torch.float32
    assert up.grad.abs().max() > 0


def test_of_all_tokens_times_width_only_x_is_kept_and_once() -> None:
    x, layers = drawn(torch.float32)
    x = torch.randn(64, 6, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        adapted_linears(x, layers)
    assert [t.data_ptr() for t in kept if t.numel() >= x.numel()] == [x.data_ptr()]


def test_a_checkpoint_frees_what_was_read() -> None:
    _, layers = drawn(torch.float32)
    x = torch.randn(64, 6, requires_grad=True)
    read: list[weakref.ref[Tensor]] = []

    def block(x: Tensor) -> Tensor:
        inner = x * 2
        read.append(weakref.ref(inner))
        return adapted_linears(inner, layers)[0]

    y = checkpoint(block, x, use_reentrant=False)
    assert read[0]() is None, "the activations stay although they are computed again"
    y.sum().backward()
    assert len(read) == 2


def test_where_merging_does_not_pay_an_nf4_weight_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    from tests.ops.drawn import drawn_nf4

    torch.manual_seed(0)
    form = drawn_nf4(48, 64, nested=False)
    x, down, up = (torch.randn(*size, requires_grad=True) for size in ((5, 64), (4, 64), (48, 4)))
    results = []
    for merging in (True, False):
        monkeypatch.setattr(linear, "merging_pays", lambda x, kernels, m=merging: m)
        (y,) = adapted_linears(x, [(FrozenLinear(form, None), make_uniform_update(down, up, 0.5))])
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, down, up))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


ROUTED: dict[str, dict[str, Any]] = {
    "by modality, biased, in groups": {"weights": (2, 1, 2), "biased": True, "groups": 2, "shared": True},
    "by token": {"weights": (2, 3, 2)},
    "by token, with dropout": {"weights": (2, 3, 2), "dropout": 0.5},
    "by row": {"weights": (2,), "index": [1, -1], "biased": True},
    "by row, unweighted": {"index": [0, 1]},
}


def routed(
    shared: bool = False, biased: bool = False, weights: tuple[int, ...] | None = None, index: list[int] | None = None,
    groups: int = 1, **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """An input, an adapter of two experts with rank 4, and what is not trained."""
    torch.manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, requires_grad=True)

    rows = 4 if shared else 8
    tensors = {"x": drawn(2, 3, 6), "down": drawn(rows, 6), "up": drawn(2, 10, 4 // groups)}
    if biased:
        tensors |= {"down_bias": drawn(rows), "up_bias": drawn(2, 10)}
    if weights:
        tensors["weights"] = drawn(*weights)
    place = None if index is None else torch.tensor(index)
    return tensors, {"index": place, "groups": groups, "scale": 0.5, **options}


@pytest.mark.parametrize("name", ROUTED)
def test_a_routed_update_beside_a_frozen_layer_is_that_of_the_two_apart(name: str) -> None:
    tensors, options = routed(**ROUTED[name])
    frozen = FrozenLinear(torch.randn(10, 6).double(), torch.randn(10).double())

    def together(x: Tensor, **t: Tensor) -> Tensor:
        torch.manual_seed(1)  # of the dropout
        return adapted_linears(x, [(frozen, make_update(x, **t, **options))])[0]

    def apart(x: Tensor, **t: Tensor) -> Tensor:
        torch.manual_seed(1)
        return routed_update(F.linear(x, frozen.weight, frozen.bias), x, **t, **options)  # type: ignore[arg-type]

    results = [[y := run(**tensors), *gradients([y], [*tensors.values()])] for run in (together, apart)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lambda *a: together(**dict(zip(tensors, a, strict=True))), [*tensors.values()])
