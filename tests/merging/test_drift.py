"""How far two models' logits are apart: the figures, and what passes."""

import math

import pytest
import torch
from torch import Tensor

from lora_mm.merging.drift import EFFECT_SHARE, FP32_SHARE, ROUNDING_SHARE, format_drift, measure_drift


def noise(seed: int, size: float = 1.0) -> Tensor:
    return torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)) * size


BASE = noise(0)
ADAPTED = BASE + noise(1, 0.5)


def test_figures_are_those_of_the_definitions() -> None:
    after = ADAPTED.clone()
    after[2, 7] += 100
    found = measure_drift([ADAPTED], [after], [BASE])
    assert found.largest == pytest.approx(100)
    assert found.typical == pytest.approx(100 / math.sqrt(200))
    assert found.effect == pytest.approx((ADAPTED - BASE).square().mean().sqrt().item())
    assert found.logit == pytest.approx(ADAPTED.abs().max().item())
    assert (found.tokens, found.agreed) == (5, 4 + int(ADAPTED[2].argmax() == 7))
    assert found.typical_limit == pytest.approx(EFFECT_SHARE * found.effect)
    assert found.largest_limit == pytest.approx(FP32_SHARE * found.logit)


def test_batches_are_taken_together() -> None:
    whole = measure_drift([ADAPTED], [ADAPTED + noise(2, 0.01)], [BASE])
    cut = [list(tensor.split([2, 3])) for tensor in (ADAPTED, ADAPTED + noise(2, 0.01), BASE)]
    parts = measure_drift(*cut)
    assert parts.tokens == whole.tokens
    assert parts.agreed == whole.agreed
    assert parts.typical == pytest.approx(whole.typical)


def test_equal_passes_and_a_merge_that_left_the_adapter_out_never_does() -> None:
    assert measure_drift([ADAPTED], [ADAPTED], [BASE]).is_within_limits(exact=True)
    for size in (1e-4, 1e-2, 1.0):
        adapted = BASE + noise(3, size)
        assert not measure_drift([adapted], [BASE], [BASE]).is_within_limits(exact=False)


def test_rounding_passes_where_computing_is_coarse_and_not_where_it_is_exact() -> None:
    rounded = measure_drift([ADAPTED], [ADAPTED.bfloat16().float()], [BASE])
    assert rounded.is_within_limits(exact=False)
    assert not rounded.is_within_limits(exact=True)


def test_an_adapter_without_effect_may_still_be_rounded() -> None:
    found = measure_drift([BASE], [BASE.bfloat16().float()], [BASE])
    assert found.typical_limit == pytest.approx(ROUNDING_SHARE * found.logit)
    assert found.is_within_limits(exact=False)


def test_what_is_no_number_never_passes() -> None:
    broken = ADAPTED.clone()
    broken[0, 0] = float("nan")
    assert not measure_drift([ADAPTED], [broken], [BASE]).is_within_limits(exact=False)
    assert not measure_drift([ADAPTED], [broken], [BASE]).is_within_limits(exact=True)


def test_each_figure_stands_beside_its_limit() -> None:
    drift = measure_drift([ADAPTED], [ADAPTED], [BASE])
    (line,) = format_drift({"image": drift}, exact=True)
    typical = f"root mean square 0.0e+00 (limit {drift.typical_limit:.1e}: 10% of the adapter's effect)"
    assert line == (
        f"image: max |Δlogit| 0.0e+00 (limit {drift.largest_limit:.1e}); {typical}; same likeliest token in 5 of 5"
    )
    (line,) = format_drift({"image": drift}, exact=False)
    assert line.startswith(f"image: max |Δlogit| 0.0e+00 (no limit in this precision); {typical}; ")
    (line,) = format_drift({"image": measure_drift([BASE], [BASE], [BASE])}, exact=True)
    assert "(limit " in line
    assert "the adapter has no effect here" in line
