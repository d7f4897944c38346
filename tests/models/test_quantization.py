"""Quantised bases: how they are quantised, every method trained on one, and bitsandbytes that is not to be had."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import lora_mm
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.writers import write_model
from lora_mm.models.anatomy import find_experts
from lora_mm.models.forward import move_batch
from lora_mm.models.loading import load_base
from lora_mm.models.memory import describe_quantization, format_memory, measure_memory
from lora_mm.models.weightless import count_usage
from tests.adapters.test_routers import sliced_batch
from tests.helpers import tiny
from tests.helpers.bases import make_family_base
from tests.helpers.families import family_batch, family_model
from tests.helpers.tiny import perturb

try:
    import bitsandbytes
except Exception:  # it raises whatever the missing library makes it raise
    bitsandbytes = None

quantised = pytest.mark.skipif(bitsandbytes is None, reason="bitsandbytes does not load here")

METHODS: dict[str, list[Any]] = {
    "mma": ["mma", {"method": "mma", "part": "vision"}],
    "lora": [{"method": "lora", "at": "all"}],
    "crop_lora": [{"method": "crop_lora", "at": "block"}],
    "visual_expert": [{"method": "visual_expert", "at": "all"}],
    "moe_lora": [{"method": "moe_lora", "experts": 3}],
    "all": [
        {"method": "mma", "at": "block"},
        {"method": "mma", "part": "vision"},
        {"method": "lora", "at": "qkv", "layers": [0]},
        {"method": "crop_lora", "at": "block"},
        {"method": "visual_expert", "at": "qkv", "layers": [1]},
        {"method": "moe_lora", "layers": [1], "experts": 3},
    ],
}


def stored(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything frozen as it lies in memory, scales of quantised weights included."""
    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = {}
    for name, parameter in root.named_parameters():
        if parameter.requires_grad:
            continue
        found[name] = parameter.data.clone()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found |= {f"{name}.{key}": value.clone() for key, value in state.as_dict(packed=True).items()}
    for name, module in root.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):  # the first forward moves the scales from weight to state
            scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            found[f"{name}.SCB"] = scales.clone()
    return found


@quantised
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nf4_is_doubly_quantised_and_computes_in_the_dtype(base_folder: Path, dtype: str) -> None:
    base = load_base(str(base_folder), dtype=dtype, quantization="nf4")  # type: ignore[arg-type]
    layers = [module for module in base.model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested) == ("nf4", True)
        assert layer.compute_dtype == getattr(torch, dtype)
        assert getattr(layer, "support_avx512bf16_for_cpu", False) is False
    rest = {p.dtype for name, p in base.model.named_parameters() if not isinstance(p, bitsandbytes.nn.Params4bit)}
    assert rest == {getattr(torch, dtype)}


@quantised
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_step_moves_every_tensor_of_every_method_and_nothing_of_the_base(
    base_folder: Path, quantization: str, name: str
) -> None:
    base = load_base(str(base_folder), dtype="bfloat16", quantization=quantization)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = lora_mm.attach(base.model, METHODS[name], train=["connector"] if name == "all" else []).train()
    tiny.perturb(model, size=0.1)  # an up-projection of zeros gives its down-projection no gradient
    before, frozen = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}, stored(model)
    assert all(tensor.dtype == torch.float32 for n, tensor in before.items() if "modules_to_save" not in n)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    batch = move_batch(model, sliced_batch())
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert [n for n, tensor in before.items() if torch.equal(after[n], tensor)] == []
    now = stored(model)
    assert set(now) == set(frozen)
    assert [n for n, tensor in frozen.items() if not torch.equal(now[n], tensor)] == []
    model.eval()
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits).all()


@quantised
@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_does_on_8_bits_what_it_does_on_all(base_folder: Path, name: str) -> None:
    """Experts side by side are four-dimensional, which bitsandbytes' own product does not take."""
    found = []
    for quantization in ("none", "int8"):
        base = load_base(str(base_folder), quantization=quantization)  # type: ignore[arg-type]
        torch.manual_seed(0)
        model = lora_mm.attach(base.model, METHODS[name]).eval()
        tiny.perturb(model, size=0.1)
        with torch.no_grad():
            found.append(model(**move_batch(model, sliced_batch())).logits.float().flatten())
    assert torch.cosine_similarity(*found, dim=0) > 0.99


def test_memory_in_a_line_adds_up(base_folder: Path) -> None:
    model = load_base(str(base_folder)).model
    line = format_memory(model)
    total = sum(size for _, _, size in measure_memory(model).values()) / 2**20
    assert line.startswith(f"{total:,.1f} MiB: vision ")
    assert all(f"{part} " in line for part in ("connector", "language", "head"))


# --- bitsandbytes that is not to be had ------------------------------------------------------------------------------

BROKEN = {  # verb → what its bitsandbytes does when it is imported
    "finetune": "raise ImportError('libcudart.so.13: cannot open shared object file')",
    "evaluate": "",  # it can be imported; what computes is not there
}


@pytest.mark.parametrize("verb", BROKEN)
def test_without_bitsandbytes_it_is_told_before_anything_is_loaded(
    trained: dict[str, Path], tmp_path: Path, verb: str
) -> None:
    """Neither the base nor the data exists: either would be told of, if it were looked for first."""
    package = tmp_path / "site" / "bitsandbytes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(BROKEN[verb])
    (package / "functional.py").write_text("")
    recipe = trained["one"] / "recipe.yaml"
    subject = ["finetune", "--recipe", str(recipe), "--output", str(tmp_path / "run")]
    if verb == "evaluate":
        subject = ["evaluate", str(trained["one"])]
    settings = ["base.quantization=nf4", "base.model=/nowhere", "data.path=/nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "lora_mm", *subject, *(part for item in settings for part in ("--set", item))],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{Path(lora_mm.__file__).parents[1]}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("base.quantization: nf4 needs bitsandbytes, which does not work here: ")
    assert second.endswith("or run with `--set base.quantization=none`.")


@quantised
def test_the_share_in_4_bits_is_told_and_warned_of_under_a_half(base_folder: Path) -> None:
    assert describe_quantization(load_base(str(base_folder)).model) is None
    base = load_base(str(base_folder), quantization="nf4", full_precision=())
    line = str(describe_quantization(base.model))
    assert line.endswith(" of the base's weights are in 4 bits.")
    table = measure_memory(base.model)
    linear = [module for module in base.model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    inside = sum(module.weight.quant_state.shape.numel() for module in linear)
    assert line.startswith(f"{inside / sum(total for total, *_ in table.values()):.0%} ")
    for weights in (True, False):
        base = load_base(str(base_folder), quantization="nf4", full_precision=("vision", "language"), weights=weights)
        line = str(describe_quantization(base.model))
        assert re.match(
            r"Warning: only \d+% of the base's weights are in 4 bits; model\.\S+ is the largest tensor", line
        )


@quantised
@pytest.mark.parametrize("family", ["qwen3_vl_moe", "qwen3_5_moe"])
def test_fused_experts_are_in_4_bits_too(family: str, tmp_path: Path) -> None:
    folder = str(make_family_base(tmp_path / "base", family))
    base, weightless = (load_base(folder, quantization="nf4", weights=weights) for weights in (True, False))
    experts = find_experts(base.model)
    assert experts
    for path in experts:
        module = base.model.get_submodule(path)
        assert {p.dtype for p in module.parameters()} == {torch.uint8}
        assert module.gate_up_proj.shape == family_model(family).get_submodule(path).gate_up_proj.shape
    assert measure_memory(weightless.model) == measure_memory(base.model)
    assert describe_quantization(weightless.model) == describe_quantization(base.model)
    batch = family_batch(family)
    with torch.no_grad():
        bare = base.model(**batch, use_cache=False).logits
    model = lora_mm.attach(base.model, ["lora"])
    perturb(model)
    expected = base.model(**batch, use_cache=False).logits
    before = stored(model)
    expected.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(value, before[name]) for name, value in stored(model).items())
    adapted = lora_mm.attach(weightless.model, ["lora"])
    with count_usage() as usage:
        adapted(**batch, use_cache=False).logits.square().mean().backward()
    assert usage.flops > 0
    (tmp_path / "merged").mkdir()
    write_model(base.model, collect_changes(base.model, None), tmp_path / "merged", base=base, dtype=torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        found = merged(**batch, use_cache=False).logits
    assert (expected - bare).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)
