"""Loading a frozen base: where it comes from, in which precision, what identifies it. Knows no adapters and no data."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, PretrainedConfig

from lora_mm import pocket
from lora_mm.errors import InputError, truncate_faults
from lora_mm.hub_access import UnreachableError, connection_error, root_cause
from lora_mm.models.anatomy import PARTS, find_anatomy, find_part
from lora_mm.models.families import register_family
from lora_mm.models.processor import load_processor

POCKET = "pocket"
"""The name under which recipes and adapters know the base that ships with the package."""

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4", "int8"]


@dataclass(frozen=True)
class Base:
    """A loaded base.

    Attributes:
        name: as the recipe says it: a Hub id, a folder, or ``pocket``.
        revision: the commit on the Hub that was loaded; None for a folder.
        fingerprint: see :func:`compute_fingerprint`.
    """

    name: str
    model: nn.Module
    processor: Any
    revision: str | None
    fingerprint: str


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: Dtype = "float32",
    quantization: Quantization = "none",
    full_precision: Sequence[str] = ("vision", "connector", "head"),
    attention: str | None = None,
    anatomy: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> Base:
    """Load a base with its processor, frozen and ready for adapters.

    Args:
        name: Hub id, folder, or ``pocket``.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights that are not quantised, and of the products.
        quantization: ``nf4`` (4 bits, double quantisation) or ``int8`` by bitsandbytes; ``none``.
        full_precision: parts that are not quantised.
        attention: transformers' ``attn_implementation``; None for its default.
        anatomy: what :func:`~lora_mm.models.families.register_family` takes, for a type without a row.
        weights: False makes the model from its configuration alone: tensors have shapes and no data (device ``meta``),
            and the base no fingerprint.

    Raises:
        InputError: when the base cannot be reached or is of a family without anatomy; says what works instead.
    """
    config = load_base_config(name, revision)
    if anatomy is not None:
        register_family(config.model_type, **anatomy)
    try:
        find_anatomy(config)
    except InputError as error:
        first, *rest = error.faults
        raise InputError(f"base.model: '{name}' cannot be adapted. {first}", *rest) from None
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if attention:
        options["attn_implementation"] = attention
    quantized = None if quantization == "none" else _quantization(quantization, dtype, config, full_precision)
    model = (_loaded if weights else _without_weights)(name, revision, config, quantized, options)
    processor = load_base_processor(name, config, revision)
    told = getattr(processor, "image_token_id", None)
    if told is not None and getattr(model.config, "image_token_id", None) is None:  # Idefics' config does not say
        model.config.image_token_id = told
    model.requires_grad_(False)
    if not weights:
        return Base(name, model, processor, None, "")
    _keep_weights_in_place(model)
    source = _source(name)
    folder = Path(source) if Path(source).is_dir() else _snapshot(source, revision)
    return Base(name, model, processor, getattr(model.config, "_commit_hash", None), compute_fingerprint(folder))


def _loaded(
    name: str,
    revision: str | None,
    config: PretrainedConfig,
    quantized: BitsAndBytesConfig | None,
    options: Mapping[str, Any],
) -> Any:
    if quantized is not None:
        place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        options = {**options, "quantization_config": quantized, "device_map": {"": place}}
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            _source(name), revision=revision, output_loading_info=True, **options
        )
    except ImportError as error:
        raise _lacking(name, error) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(name, error) from error
    if info["missing_keys"]:  # transformers draws those at random
        raise InputError(f"base.model: '{name}' lacks weights:", *truncate_faults(sorted(info["missing_keys"])))
    return model


def _without_weights(
    name: str,
    revision: str | None,
    config: PretrainedConfig,
    quantized: BitsAndBytesConfig | None,
    options: Mapping[str, Any],
) -> Any:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, **options)
        if quantized is not None:
            _pack(model, quantized)
    return model


def _pack(model: Any, settings: BitsAndBytesConfig) -> None:
    """Give a model the layers that transformers would quantise, without data: in the context of ``meta``."""
    import bitsandbytes as bnb
    from transformers.integrations import replace_with_bnb_linear

    keep = settings.llm_int8_skip_modules or []
    replace_with_bnb_linear(model, modules_to_not_convert=keep, quantization_config=settings)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight = _nf4(module.weight.shape, settings.bnb_4bit_compute_dtype)
            module.quant_state = module.weight.quant_state
        elif isinstance(module, bnb.nn.Linear8bitLt):
            data = torch.empty(module.weight.shape, dtype=torch.int8)
            scales = torch.empty(len(data))
            module.weight = bnb.nn.Int8Params(data, requires_grad=False, CB=data, SCB=scales)
    setattr(model, "is_loaded_in_4bit" if settings.load_in_4bit else "is_loaded_in_8bit", True)


def _nf4(shape: torch.Size, dtype: torch.dtype) -> Any:
    """A weight of ``shape`` in NF4, with double quantisation, whose blocks of 64 have their blocks of 256."""
    import bitsandbytes as bnb

    values = shape.numel()
    blocks = -(-values // 64)
    absmax, second = torch.empty(blocks, dtype=torch.uint8), torch.empty(-(-blocks // 256))
    state2 = bnb.functional.QuantState(second, code=torch.empty(256), blocksize=256, dtype=torch.float32)
    state = bnb.functional.QuantState(absmax, shape, torch.empty(16), 64, "nf4", dtype, torch.empty(()), state2)
    data = torch.empty(-(-values // 2), 1, dtype=torch.uint8)
    return bnb.nn.Params4bit(data, False, state, 64, quant_type="nf4", bnb_quantized=True)


def measure_memory(model: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Part → (parameters, of them trainable, bytes); a 4-bit tensor counts the weights it stands for.

    Of a part that is trained whole PEFT keeps the frozen original beside the copy: that counts in the bytes only.
    """
    table: dict[str, tuple[int, int, int]] = {}
    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, parameter in root.named_parameters():
        part = find_part(root, name)
        state = getattr(parameter, "quant_state", None)
        count = parameter.numel() if state is None else state.shape.numel()
        if ".original_module." in name:
            count = 0
        total, trainable, size = table.get(part, (0, 0, 0))
        table[part] = (
            total + count,
            trainable + (count if parameter.requires_grad else 0),
            size + sum(tensor.numel() * tensor.element_size() for tensor in (parameter, *_scales(state))),
        )
    return table


def _scales(state: Any) -> list[torch.Tensor]:
    """What a 4-bit weight has beside its values: each block's largest, quantised itself or not."""
    if state is None:
        return []
    return [state.absmax, *([state.state2.absmax] if state.nested else [])]


def format_memory(model: nn.Module) -> str:
    """What the parts of a loaded model weigh, in one line."""
    sizes = {part: size / 2**20 for part, (_, _, size) in measure_memory(model).items()}
    return f"{sum(sizes.values()):,.1f} MiB: {', '.join(f'{part} {size:,.1f}' for part, size in sizes.items())}"


def compute_fingerprint(folder: Path) -> str:
    """What a folder of weights looks like, whatever precision it is loaded in: 16 hexadecimal digits.

    Reads the architecture from ``config.json``, and of every safetensors file its size and first 256 KiB (its header
    and first weights): another base, or the same one trained on, differs; nothing of 14 GB has to be read.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for volatile in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(256 * 1024))
    return digest.hexdigest()[:16]


def _source(name: str) -> str:
    """Where transformers finds the base that recipes call ``name``."""
    if name == POCKET:
        return str(pocket.BASE)
    return str(Path(name).expanduser()) if name.startswith("~") else name


def load_base_config(name: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a base, which is small: whether the base can be had, before anything large is loaded.

    Raises:
        Unreachable: when it is neither here nor on the Hub; InputError when it is here and no model.
    """
    source = _source(name)
    if name.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise InputError(f"base.model: no folder '{name}'.")
    try:
        return AutoConfig.from_pretrained(source, revision=revision, local_files_only=connection_error() is not None)
    except (OSError, ValueError) as error:
        raise _unusable(name, error) from error


def load_base_processor(name: str, config: PretrainedConfig, revision: str | None = None) -> Any:
    """The processor of a base whose :func:`load_base_config` is ``config``; raises as that does."""
    try:
        return load_processor(_source(name), config, revision)
    except ImportError as error:
        raise _lacking(name, error) from error
    except (OSError, ValueError) as error:
        raise _unusable(name, error) from error


def _lacking(name: str, error: ImportError) -> InputError:
    return InputError(
        f"base.model: '{name}' needs a package that is not installed: {str(error).strip().splitlines()[0]}"
    )


def _unusable(name: str, error: Exception) -> InputError:
    if name == POCKET or Path(name).is_dir():
        return InputError(f"base.model: '{name}' cannot be loaded: {str(error).splitlines()[0]}")
    return UnreachableError(
        f"base '{name}' is no folder here, and not to be had from the Hugging Face Hub "
        f"({connection_error() or root_cause(error)})"
    )


def _snapshot(source: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "config.json", revision=revision)).parent


def check_quantization(quantization: Quantization) -> None:
    """Raise InputError unless bitsandbytes is there and quantises on this machine. Loads nothing.

    Where its native library is missing, bitsandbytes can be imported all the same: a few numbers are quantised.
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
    except Exception as error:  # it raises whatever the missing library makes it raise
        raise InputError(
            f"base.quantization: {quantization} needs bitsandbytes, which does not work here: {root_cause(error)}",
            "Install it with `pip install bitsandbytes`, or run with `--set base.quantization=none`.",
        ) from error


def _quantization(
    quantization: Quantization, dtype: Dtype, config: PretrainedConfig, full_precision: Sequence[str]
) -> BitsAndBytesConfig:
    check_quantization(quantization)
    parts = find_anatomy(config).parts
    unknown = [part for part in full_precision if part not in PARTS]
    if unknown:
        raise InputError(f"base.full_precision: unknown part {unknown[0]!r}; the model has: {', '.join(parts)}.")
    keep = [path for part in full_precision for path in parts.get(part, ())]
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=keep,
    )


def _keep_weights_in_place(model: nn.Module) -> None:
    # On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first eval forward, after which training
    # silently loses gradients and merging is wrong (relative error 1.41 instead of 1e-4).
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def get_default_device() -> torch.device:
    """Where a model that is not quantised goes: the GPU if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
