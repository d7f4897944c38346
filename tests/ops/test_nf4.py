"""An NF4 weight with its low-rank change: bitsandbytes' own values, and changes down to 1e-6 that survive."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lora_mm.ops import nf4
from lora_mm.ops.linear import FrozenLinear, adapted_linears
from lora_mm.ops.lowrank import make_uniform_update
from lora_mm.ops.nf4 import dequantize, dequantize_and_merge
from lora_mm.ops.nf4_weight import NF4Weight, read_nf4_weight
from tests.ops.drawn import decoded, drawn_nf4

bitsandbytes = pytest.importorskip("bitsandbytes")


def quantised(rows: int = 192, width: int = 256, *, nested: bool = True) -> tuple[NF4Weight, Tensor]:
    """A weight by bitsandbytes, and what bitsandbytes makes of it in fp32."""
    torch.manual_seed(0)
    weight = torch.randn(rows, width) * 0.02
    layer = bitsandbytes.nn.Linear4bit(width, rows, bias=False, quant_type="nf4", compress_statistics=nested)
    layer.weight = bitsandbytes.nn.Params4bit(weight, False, quant_type="nf4", compress_statistics=nested)
    layer.to("cpu")  # quantises
    form = read_nf4_weight(layer.weight)
    assert form is not None
    assert (form.nested is not None) == nested
    return form, bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()


@pytest.mark.parametrize("nested", [True, False])
def test_without_a_change_it_is_what_bitsandbytes_dequantises(nested: bool) -> None:
    form, theirs = quantised(nested=nested)
    assert torch.equal(dequantize(form, torch.float32), theirs)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(48, 76), (4800, 76), (3000, 128)])
def test_it_agrees_with_a_decoder_that_goes_value_by_value(nested: bool, rows: int, width: int) -> None:
    """Also where it is done in several turns, and where blocks run across rows."""
    torch.manual_seed(0)
    drawn = drawn_nf4(rows, width, nested=nested, second=256)  # what bitsandbytes has
    form = replace(drawn, code=quantised()[0].code)
    up, down = torch.randn(rows, 5), torch.randn(5, width)
    exact = decoded(form) + 0.5 * up.double() @ down.double()
    torch.testing.assert_close(
        dequantize_and_merge(form, make_uniform_update(down, up, 0.5), torch.float32).double(),
        exact,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("merging", [True, False])
@pytest.mark.parametrize("size", [1e-6, 1e-5, 1e-4, 1e-3])
def test_a_change_adds_no_error_to_the_bf16_product_however_small_it_is(
    size: float, merging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, against the separate path in float64; merging after the rounding loses the change."""
    monkeypatch.setattr(nf4, "MERGED_FROM", 512 if merging else 513)
    form, wide = quantised()
    torch.manual_seed(1)
    x = torch.randn(512, 256).bfloat16().requires_grad_()
    down, up = torch.randn(8, 256) / 16, torch.randn(192, 8) / 8**0.5
    up *= size / (up @ down).abs().mean()
    down, up = down.requires_grad_(), up.requires_grad_()
    dy = torch.randn(512, 192).bfloat16()
    (y,) = adapted_linears(x, [(FrozenLinear(form, None), make_uniform_update(down, up, 1.0))])
    dx, ddown, dup = torch.autograd.grad(y, (x, down, up), dy)
    x64, a, b = (t.detach().double() for t in (x, down, up))
    exact = x64 @ wide.double().t() + x64 @ a.t() @ b.t()
    assert error(y, exact) < 4e-3
    assert error(dx, dy.double() @ wide.double() + dy.double() @ b @ a) < 4e-3
    assert error(ddown, (dy.double() @ b).t() @ x64) < 8e-3
    assert error(dup, dy.double().t() @ (x64 @ a.t())) < 8e-3
    # averaged over all tokens and weights, the change has the size that it should have; rounding noise averages out
    assert gain(
        dequantize_and_merge(form, make_uniform_update(down, up, 1.0), torch.bfloat16), wide, b @ a
    ) == pytest.approx(1.0, abs=0.35 if size < 1e-5 else 0.1)
    late = (wide.bfloat16() + (b @ a).bfloat16()).double()
    if size == 1e-6:
        assert gain(late, wide, b @ a) < 0.5, (
            "merged after the rounding a small change must drown, or this says nothing"
        )


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.detach().double() - exact).norm() / exact.norm())


def gain(weight: Tensor, base: Tensor, change: Tensor) -> float:
    """How much of ``change`` is in ``weight``: 1 for all of it."""
    return float(
        ((weight.detach().double() - base.bfloat16().double()) * change.detach()).sum() / change.detach().square().sum()
    )
