"""The algebra of low-rank changes, against layers computed step by step."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_mm.merging.changes import LayerChange, LowRankUpdate

WIDTH, OUT = 12, 9


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def update(generator: torch.Generator, d_out: int, rank: int, *, biased: bool) -> LowRankUpdate:
    bias = draw(generator, d_out) if biased else None
    return LowRankUpdate(draw(generator, rank, WIDTH), draw(generator, d_out, rank), bias)


def applied(one: LowRankUpdate | None, x: Tensor, d_out: int) -> Tensor:
    """What an update adds, computed step by step."""
    if one is None:
        return x.new_zeros(len(x), d_out)
    return F.linear(F.linear(x, one.down), one.up, one.bias)


ranks, biases = st.integers(1, 5), st.booleans()


@given(seed=st.integers(0, 999), rank=ranks, other=ranks, biased=biases, other_biased=biases)
@settings(deadline=None, max_examples=40)
def test_updates_add_and_compose(seed: int, rank: int, other: int, biased: bool, other_biased: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = update(generator, WIDTH, rank, biased=biased)
    second = update(generator, WIDTH, other, biased=other_biased)
    x = draw(generator, 4, WIDTH)
    once = x + applied(first, x, WIDTH)
    torch.testing.assert_close(once + applied(second, once, WIDTH), x + applied(second.compose_after(first), x, WIDTH))
    both = applied(first, x, WIDTH) + applied(second, x, WIDTH)
    torch.testing.assert_close(applied(first + second, x, WIDTH), both)


@given(
    seed=st.integers(0, 999),
    before=st.none() | st.tuples(ranks, biases),
    beside=st.none() | st.tuples(ranks, biases),
    has_bias=biases,
)
@settings(deadline=None, max_examples=40)
def test_a_change_equals_one_update_and_one_merged_layer(
    seed: int, before: tuple[int, bool] | None, beside: tuple[int, bool] | None, has_bias: bool
) -> None:
    if before is None and beside is None:
        return
    generator = torch.Generator().manual_seed(seed)
    weight, x = draw(generator, OUT, WIDTH), draw(generator, 4, WIDTH)
    bias = draw(generator, OUT) if has_bias else None
    inner = update(generator, WIDTH, before[0], biased=before[1]) if before else None
    outer = update(generator, OUT, beside[0], biased=beside[1]) if beside else None
    change = LayerChange(inner, outer)
    read = x + applied(inner, x, WIDTH)
    expected = F.linear(read, weight, bias) + applied(outer, read, OUT)
    torch.testing.assert_close(F.linear(x, weight, bias) + applied(change.as_update(weight), x, OUT), expected)
    assert change.needs_bias is any(kind is not None and kind[1] for kind in (before, beside))
    merged, shift = change.merge_into(weight.clone(), bias)
    torch.testing.assert_close(F.linear(x, merged, shift), expected)
