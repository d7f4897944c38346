"""The Triton kernels compiled for the cards that people have, on a machine without one: do they fit?

The whole matrix (every dtype and padding on every card) is ``python -m tests.ops.ahead_of_time``; here every kernel is
compiled for every card in its largest form, and in every form for sm_86, whose limits are the tightest.
"""

import pytest

pytest.importorskip("triton")

from lora_mm.ops.triton.launch import TILES, Tile
from tests.ops.ahead_of_time import ARCHITECTURES, compiled, configurations, faults, usage


def forms(kernel: str) -> list[tuple[int, str, int, Tile]]:
    largest = max(TILES[kernel])
    return [
        (architecture, dtype, columns, tile)
        for architecture in ARCHITECTURES
        for dtype, columns, tile in configurations(kernel)
        if dtype == "bf16" and (architecture == 86 or columns == largest)
    ] + [(86, "fp16", largest, TILES[kernel][largest])]


@pytest.mark.parametrize(("kernel", "form"), [(kernel, form) for kernel in TILES for form in forms(kernel)], ids=str)
def test_fits_without_spills(kernel: str, form: tuple[int, str, int, Tile]) -> None:
    architecture, dtype, columns, tile = form
    took = usage(compiled(kernel, architecture, dtype, columns, tile))
    assert faults(took, architecture) == [], took


def test_the_gate_closes_on_a_tile_that_is_too_large() -> None:
    took = usage(compiled("expand", 89, "bf16", 64, Tile(128, 128, warps=1)))
    assert any("spills" in fault for fault in faults(took, 89)), took
    took = usage(compiled("shrink", 86, "bf16", 16, Tile(128, 128, stages=6)))
    assert any("shared memory" in fault for fault in faults(took, 86)), took
