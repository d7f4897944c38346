"""The routed low-rank update against a plain loop over experts and groups, and its gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_mm.ops.lowrank import routed_update, stack_up


def loop(
    base: Tensor,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    *,
    down_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    weights: Tensor | None = None,
    groups: int = 1,
    scale: float = 1.0,
) -> Tensor:
    """The formula as it is written: one expert after the other, one group of outputs after the other."""
    experts, d_out, r_group = up.shape
    rank = r_group * groups
    y = base.clone()
    for e in range(experts):
        own = slice(e * rank, (e + 1) * rank) if down.shape[0] == experts * rank else slice(0, rank)
        hidden = x @ down[own].T
        if down_bias is not None:
            hidden = hidden + down_bias[own]
        for g in range(groups):
            outputs = slice(g * d_out // groups, (g + 1) * d_out // groups)
            part = hidden[..., g * r_group : (g + 1) * r_group] @ up[e, outputs].T
            if up_bias is not None:
                part = part + up_bias[e, outputs]
            weight = 1.0 if weights is None else weights[..., e].unsqueeze(-1)
            y[..., outputs] += scale * weight * part
    return y


@st.composite
def updates(draw: st.DrawFn) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Arguments of ``routed_update``: sizes, which biases, shared or stacked A, and every form of weights."""
    experts, groups, r_group = (draw(st.integers(1, 4)) for _ in range(3))
    d_in, d_out = draw(st.integers(1, 7)), groups * draw(st.integers(1, 4))
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rows = r_group * groups * (experts if draw(st.booleans()) else 1)
    torch.manual_seed(draw(st.integers(0, 2**31)))
    tensors = (
        torch.randn(batch, tokens, d_out).double(),
        torch.randn(batch, tokens, d_in).double(),
        torch.randn(rows, d_in).double(),
        torch.randn(experts, d_out, r_group).double(),
    )
    shape = draw(st.sampled_from([None, (experts,), (batch, 1, experts), (batch, tokens, experts)]))
    options = {
        "down_bias": torch.randn(rows).double() if draw(st.booleans()) else None,
        "up_bias": torch.randn(experts, d_out).double() if draw(st.booleans()) else None,
        "weights": None if shape is None else torch.randn(shape).double(),
        "groups": groups,
        "scale": draw(st.sampled_from([1.0, 0.25, -3.0])),
    }
    return tensors, options


@settings(max_examples=150, deadline=None)
@given(updates())
def test_equals_a_loop_over_experts_and_groups(case: tuple[tuple[Tensor, ...], dict[str, Any]]) -> None:
    tensors, options = case
    torch.testing.assert_close(routed_update(*tensors, **options), loop(*tensors, **options), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [None, (2,), (2, 1, 2), (2, 3, 2)])
@pytest.mark.parametrize("stacked", [False, True])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...] | None, stacked: bool) -> None:
    torch.manual_seed(0)
    rank, groups = 4, 2
    rows = 2 * rank if stacked else rank

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, requires_grad=True)

    tensors = [drawn(2, 3, 6), drawn(2, 3, 5), drawn(rows, 5), drawn(2, 6, rank // groups), drawn(rows), drawn(2, 6)]
    if shape:
        tensors.append(drawn(*shape))

    def update(base: Tensor, x: Tensor, down: Tensor, up: Tensor, a: Tensor, b: Tensor, *w: Tensor) -> Tensor:
        weights = w[0] if w else None
        return routed_update(base, x, down, up, down_bias=a, up_bias=b, weights=weights, groups=groups, scale=0.5)

    assert torch.autograd.gradcheck(update, tensors)


def test_zero_up_projection_leaves_the_base_bitwise() -> None:
    torch.manual_seed(0)
    base, x, down = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(4, 8)
    zero = torch.zeros(3, 8, 2)
    updated = routed_update(
        base, x, down, zero, down_bias=torch.randn(4), up_bias=torch.zeros(3, 8), weights=torch.rand(3), groups=2
    )
    assert torch.equal(updated, base)
    assert not torch.equal(routed_update(base, x, down, zero + 1, groups=2), base)


def test_bf16_input_with_fp32_parameters_gives_bf16_near_the_exact_sum() -> None:
    torch.manual_seed(0)
    base, x = torch.randn(2, 9, 32).bfloat16(), torch.randn(2, 9, 32).bfloat16()
    down, up, weights = torch.randn(8, 32) / 6, torch.randn(2, 32, 4) / 3, torch.rand(2, 1, 2)
    options = {"up_bias": torch.randn(2, 32), "down_bias": torch.randn(8), "weights": weights, "groups": 2}
    updated = routed_update(base, x, down, up, **options)
    assert updated.dtype == torch.bfloat16
    exact = loop(base.float(), x.float(), down, up, **options)
    torch.testing.assert_close(updated.float(), exact, rtol=0.03, atol=0.08)
    assert (exact - base.float()).abs().mean() > 0.5, "the update must be far larger than the tolerance"


def test_result_has_the_dtype_of_base_whatever_x_is() -> None:
    base, x = torch.zeros(1, 2, 4), torch.ones(1, 2, 3).bfloat16()
    assert routed_update(base, x, torch.ones(2, 3), torch.ones(1, 4, 2)).dtype == torch.float32


def test_dropout_drops_hidden_units_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    base, x = torch.zeros(1, 4000, 1), torch.ones(1, 4000, 1)
    dropped = routed_update(base, x, torch.ones(1, 1), torch.ones(1, 1, 1), dropout=0.25)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)


def test_stacked_up_projections_are_zero_outside_their_groups() -> None:
    columns = stack_up(torch.ones(3, 6, 2), groups=2)
    assert columns.shape == (6, 3 * 4)
    per_expert = columns.view(6, 3, 4)
    assert per_expert[:3, :, :2].all()
    assert per_expert[3:, :, 2:].all()
    assert not per_expert[:3, :, 2:].any()
    assert not per_expert[3:, :, :2].any()
