"""The thin products by row: against one product a row, and in place."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_mm.ops import products

EXPERTS, TOKENS, COLUMNS, WIDTH = 3, 4, 2, 5

Rows = st.lists(st.integers(-2, EXPERTS - 1), min_size=1, max_size=8)


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def by_row(rows: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, z = drawn(len(rows), TOKENS, WIDTH), drawn(len(rows), TOKENS, COLUMNS)
    return x, z, drawn(EXPERTS, COLUMNS, WIDTH), torch.tensor(rows)


@pytest.fixture(params=["skipped", "multiplied by zero"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of rows without an expert, by their size."""
    monkeypatch.setattr(products, "LARGE", 1 if request.param == "skipped" else 2**17)


@pytest.mark.usefixtures("place")
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(Rows)
def test_each_row_meets_its_own_experts_matrix(rows: list[int]) -> None:
    x, z, matrices, index = by_row(rows)
    has = (index >= 0).double()[:, None, None]
    own = matrices[index.clamp(min=0)]
    torch.testing.assert_close(products.shrink(x, matrices, index, "torch"), has * (x @ own.mT))
    for base in (None, x.clone()):
        expected = has * (z @ own) + (0 if base is None else base)
        torch.testing.assert_close(products.expand(base, z, matrices.mT, index, "torch"), expected)
    sums = torch.stack([(has * (index == e)[:, None, None] * (z.mT @ x)).sum(0) for e in range(EXPERTS)])
    torch.testing.assert_close(products.outer(x, z, index, EXPERTS, "torch"), sums)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("rows", [None, [1, -1, 0], [-1, -1]])
def test_expanding_into_its_base_writes_there_and_otherwise_leaves_it(rows: list[int] | None) -> None:
    x, z, matrices, _ = by_row(rows or [0, 0])
    index, columns = (None, matrices[0].mT) if rows is None else (torch.tensor(rows), matrices.mT)
    before = x.clone()
    y = products.expand(x, z, columns, index, "torch")
    assert torch.equal(x, before)
    assert y.data_ptr() != x.data_ptr()
    assert products.expand(x, z, columns, index, "torch", in_place=True).data_ptr() == x.data_ptr()
    torch.testing.assert_close(x, y)
