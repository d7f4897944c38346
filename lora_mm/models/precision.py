"""The precision of a base: dtypes, and quantisation by bitsandbytes. Knows no adapters; reads no files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.utils.parametrize
from torch import nn
from transformers import BitsAndBytesConfig

from lora_mm.errors import InputError
from lora_mm.hub_access import root_cause
from lora_mm.models.families import PARTS

Dtype = Literal["float32", "bfloat16", "float16"]
DtypeChoice = Literal["float32", "bfloat16", "float16", "native"]
"""A dtype, or ``native``: the fastest of bfloat16 and float32 on this device."""

Quantization = Literal["none", "nf4", "int8"]


def resolve_dtype(choice: DtypeChoice) -> Dtype:
    """Turn ``native`` into bfloat16 if this device has instructions for it, else into float32.

    Without them products in bfloat16 are emulated: on a CPU with AVX2 alone, ``scienceqa-pocket`` trained 2.8 samples a
    second in bfloat16 and 48.7 in float32.
    """
    if choice != "native":
        return choice
    if torch.cuda.is_available():
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Newer than the oldest torch that we support.
        found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        computes = any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return "bfloat16" if computes else "float32"


def check_quantization(quantization: Quantization) -> None:
    """Check that bitsandbytes works on this machine, by quantising a few numbers; loads nothing.

    Importing it is not enough: bitsandbytes can be imported without its native library.

    Raises:
        InputError: it does not work.
    """
    if quantization == "none":
        return
    try:
        import bitsandbytes
        import bitsandbytes.functional

        numbers = torch.ones(1, 64, dtype=torch.float16, device="cuda" if torch.cuda.is_available() else "cpu")
        if quantization == "nf4":
            bitsandbytes.functional.quantize_4bit(numbers, quant_type="nf4", compress_statistics=True)
        else:
            bitsandbytes.functional.int8_vectorwise_quant(numbers)
    except Exception as error:  # the type depends on what is missing
        raise InputError(
            f"base.quantization: {quantization} needs bitsandbytes, which does not work here: {root_cause(error)}",
            "Install it with `pip install bitsandbytes`, or run with `--set base.quantization=none`.",
        ) from error


def make_quantization_config(
    quantization: Quantization, dtype: Dtype, parts: Mapping[str, Sequence[str]], full_precision: Sequence[str]
) -> BitsAndBytesConfig | None:
    """Make transformers' config of the quantisation; None for ``none``.

    Args:
        quantization: ``nf4`` (4 bits, double quantisation), ``int8``, or ``none``.
        dtype: of the products with 4-bit weights.
        parts: part of the base → path prefixes of its modules.
        full_precision: parts that are not quantised.

    Raises:
        InputError: bitsandbytes does not work, or a part is unknown.
    """
    if quantization == "none":
        return None
    check_quantization(quantization)
    unknown = [part for part in full_precision if part not in PARTS]
    if unknown:
        raise InputError(f"base.full_precision: unknown part {unknown[0]!r}; the model has: {', '.join(parts)}.")
    skipped = [path for part in full_precision for path in parts.get(part, ())]
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=skipped,
    )


def quantize_experts(model: Any, paths: Iterable[str]) -> None:
    """Quantise the fused experts of a mixture to NF4, in place: transformers leaves parameters as they are.

    bitsandbytes dequantises them in each forward, so with gradient checkpointing one layer's are in full precision at a
    time. Before, all of them are on the device in full precision.

    Args:
        model: a loaded transformers model, or one without data.
        paths: of the modules that hold the experts.
    """
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for module in map(model.get_submodule, paths):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 3 and parameter.is_meta:
                _replace_without_data(module, name, parameter)
            elif parameter.dim() == 3:
                replace_parameter_4bit(module, name, compress_statistics=True, quant_type="nf4")


def _replace_without_data(module: nn.Module, name: str, parameter: torch.Tensor) -> None:
    """Do what bitsandbytes' ``replace_parameter_4bit`` does, to a parameter without data."""
    from bitsandbytes.nn import parametrize

    with torch.device("meta"):
        weight = _make_nf4_weight(parameter.shape, parameter.dtype)
    setattr(module, name, nn.Parameter(weight.data, requires_grad=False))
    rule = parametrize.Bnb4bitParametrization(weight.quant_state)
    torch.nn.utils.parametrize.register_parametrization(module, name, rule, unsafe=True)


def find_quant_states(model: nn.Module) -> dict[int, Any]:
    """Find ``id`` of each parameter in 4 bits → bitsandbytes' state, which holds its shape and scales."""
    with_states = ((id(p), getattr(p, "quant_state", None)) for p in model.parameters())
    states = {key: state for key, state in with_states if state is not None}
    for module in model.modules():
        for rules in getattr(module, "parametrizations", {}).values():
            states |= {id(rules.original): rule.quant_state for rule in rules if hasattr(rule, "quant_state")}
    return states


def keep_weights_in_place(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first eval forward on CPUs with AVX512-BF16.

    After that, training silently loses gradients and merging is wrong (relative error 1.41 instead of 1e-4).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  torch types attributes as tensors


def quantize_without_data(model: Any, config: BitsAndBytesConfig) -> None:
    """Give a model the layers that transformers would quantise, without data. Call it under ``torch.device("meta")``.

    Args:
        model: a transformers model without data.
        config: from :func:`make_quantization_config`.
    """
    import bitsandbytes as bnb
    from transformers.integrations import replace_with_bnb_linear

    skipped = config.llm_int8_skip_modules or []
    replace_with_bnb_linear(model, modules_to_not_convert=skipped, quantization_config=config)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = _make_nf4_weight(module.weight.shape, config.bnb_4bit_compute_dtype)
            module.weight, module.quant_state = weight, weight.quant_state
        elif isinstance(module, bnb.nn.Linear8bitLt):
            data = torch.empty(module.weight.shape, dtype=torch.int8)
            scales = torch.empty(len(data))
            module.weight = bnb.nn.Int8Params(data, requires_grad=False, CB=data, SCB=scales)
    setattr(model, "is_loaded_in_4bit" if config.load_in_4bit else "is_loaded_in_8bit", True)


def _make_nf4_weight(shape: torch.Size, dtype: torch.dtype) -> Any:
    """A weight of ``shape`` in NF4 with double quantisation: scales of blocks of 64, themselves in blocks of 256."""
    import bitsandbytes as bnb

    values = shape.numel()
    blocks = -(-values // 64)
    absmax, second = torch.empty(blocks, dtype=torch.uint8), torch.empty(-(-blocks // 256))
    state2 = bnb.functional.QuantState(second, code=torch.empty(256), blocksize=256, dtype=torch.float32)
    state = bnb.functional.QuantState(absmax, shape, torch.empty(16), 64, "nf4", dtype, torch.empty(()), state2)
    data = torch.empty(-(-values // 2), 1, dtype=torch.uint8)
    return bnb.nn.Params4bit(data, False, state, 64, quant_type="nf4", bnb_quantized=True)
