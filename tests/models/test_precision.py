"""The dtype ``native``."""

from pathlib import Path

import pytest
import torch

from lora_mm.models.loading import load_base
from lora_mm.models.precision import DtypeChoice, resolve_dtype

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(torch.cuda.is_available() or not CPUINFO.is_file(), reason="reads the flags of an x86 CPU")
def test_native_is_bfloat16_where_the_processor_has_instructions_for_it() -> None:
    flags = CPUINFO.read_text().split()
    expected = "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"
    assert resolve_dtype("native") == expected
    assert load_base("pocket", dtype="native").model.dtype == getattr(torch, expected)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_other_dtypes_stay(name: DtypeChoice) -> None:
    assert resolve_dtype(name) == name
