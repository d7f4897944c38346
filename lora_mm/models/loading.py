"""Loads a frozen base with its processor. Knows no adapters and no data."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, PretrainedConfig
from transformers.utils import find_adapter_config_file

from lora_mm.errors import InputError, truncate_faults
from lora_mm.hub_access import UnreachableError, connection_error, root_cause
from lora_mm.models.anatomy import find_experts, get_anatomy
from lora_mm.models.base_files import (
    POCKET,
    TRUSTED_ONLY,
    check_weight_files,
    compute_fingerprint,
    find_base_folder,
    get_source,
)
from lora_mm.models.description import ModelDescription
from lora_mm.models.precision import (
    DtypeChoice,
    Quantization,
    keep_weights_in_place,
    make_quantization_config,
    quantize_experts,
    quantize_without_data,
    resolve_dtype,
)
from lora_mm.models.processor import load_processor


@dataclass(frozen=True)
class Base:
    """A loaded base.

    Attributes:
        name: its name in recipes: a Hub id, a folder, or ``pocket``.
        model: the transformers model, frozen.
        processor: the processor that prepares its inputs.
        revision: the commit on the Hub that was loaded; None for a folder.
        fingerprint: see :func:`~.base_files.compute_fingerprint`; empty without weights.
    """

    name: str
    model: Any
    processor: Any
    revision: str | None
    fingerprint: str


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: DtypeChoice = "float32",
    quantization: Quantization = "none",
    full_precision: Sequence[str] = ("vision", "connector", "head"),
    attention: str | None = None,
    anatomy: ModelDescription | None = None,
    weights: bool = True,
) -> Base:
    """Load a base with its processor, frozen and ready for adapters.

    Args:
        name: Hub id, folder, or ``pocket``.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights that are not quantised, and of the products.
        quantization: ``nf4`` (4 bits, double quantisation) or ``int8`` by bitsandbytes; or ``none``.
        full_precision: parts that are not quantised.
        attention: transformers' ``attn_implementation``; None for its default.
        anatomy: the user's description of the model, see :func:`~lora_mm.models.families.find_family`.
        weights: whether to load the weights. If not, the model is made from its configuration: its tensors have shapes
            but no data (device ``meta``), and the base has no fingerprint.

    Raises:
        InputError: the base cannot be loaded, or the description does not fit it; says what works instead.
    """
    config = load_base_config(name, revision)
    _check_attention(name, attention or config._attn_implementation)
    dtype = resolve_dtype(dtype)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if attention:
        options["attn_implementation"] = attention
    model = make_model_without_data(name, config, options)
    parts = get_anatomy(model, anatomy).parts  # before weights of many gigabytes are read
    quantized = make_quantization_config(quantization, dtype, parts, full_precision)
    if weights:
        model = _load_model(name, revision, quantized, options)
        get_anatomy(model, anatomy)
    elif quantized is not None:
        with torch.device("meta"):
            quantize_without_data(model, quantized)
    if quantization == "nf4":
        quantize_experts(model, find_experts(model, full_precision))
    processor = load_base_processor(name, config, revision, anatomy)
    image_token_id = getattr(processor, "image_token_id", None)
    if image_token_id is not None and getattr(model.config, "image_token_id", None) is None:  # Idefics' config lacks it
        model.config.image_token_id = image_token_id
    model.requires_grad_(False)
    if not weights:
        return Base(name, model, processor, None, "")
    keep_weights_in_place(model)
    folder = find_base_folder(name, revision)
    commit = None if folder == Path(get_source(name)) else folder.name  # the Hub's cache has a folder for each commit
    return Base(name, model, processor, commit, compute_fingerprint(folder))


def _check_attention(name: str, attention: Any) -> None:
    """Refuse an attention implementation that is downloaded: a base's config and an adapter's recipe can name one."""
    if "/" in str(attention):
        raise InputError(
            f"base.attention: '{attention}' for '{name}' names code on the Hub, which lora-mm never runs. "
            "Choose another: --set base.attention=sdpa (or eager, flash_attention_2)."
        )


def _load_model(
    name: str, revision: str | None, quantized: BitsAndBytesConfig | None, options: Mapping[str, Any]
) -> Any:
    if quantized is not None:
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        options = {**options, "quantization_config": quantized, "device_map": {"": device}}
    with _explain_failure(name):
        source, offline = get_source(name), connection_error() is not None
        if find_adapter_config_file(source, revision=revision, local_files_only=offline) is not None:
            # transformers would put the adapter on the base, or load another base in its place
            raise InputError(f"base.model: '{name}' holds an adapter (adapter_config.json); name the base without it.")
        check_weight_files(name, revision, offline=offline)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            revision=revision,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            use_safetensors=True,
            **TRUSTED_ONLY,
            **options,
        )
    model, info = loaded
    _check_loaded_tensors(name, info)
    return model


def _check_loaded_tensors(name: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that transformers would leave at random values; warn of those that the model does not use."""
    misshapen = [
        f"{tensor} is {tuple(found)}, its config says {tuple(expected)}"
        for tensor, found, expected in sorted(info["mismatched_keys"])
    ]
    if misshapen:
        raise InputError(f"base.model: '{name}' has weights that do not fit its config:", *truncate_faults(misshapen))
    if info["missing_keys"]:
        raise InputError(f"base.model: '{name}' lacks weights:", *truncate_faults(sorted(info["missing_keys"])))
    if unused := sorted(info["unexpected_keys"]):
        warnings.warn(f"base '{name}': {len(unused):,} tensors are not used, such as {unused[0]}.", stacklevel=4)


def make_model_without_data(name: str, config: PretrainedConfig, options: Mapping[str, Any]) -> Any:
    """Make the model of a configuration without weights: its tensors have shapes but no data (device ``meta``).

    Args:
        name: of the base, for messages.
        config: the configuration; it is not changed.
        options: arguments of transformers' ``from_config``.

    Raises:
        InputError: transformers cannot make it.
    """
    with _explain_failure(name), torch.device("meta"):
        return AutoModelForImageTextToText.from_config(copy.deepcopy(config), **TRUSTED_ONLY, **options)


def load_base_config(name: str, revision: str | None = None) -> PretrainedConfig:
    """Load the configuration of a base: a small file, to find out early whether the base exists.

    Args:
        name: Hub id, folder, or ``pocket``.
        revision: branch, tag or commit on the Hub.

    Raises:
        UnreachableError: the base is neither on this machine nor on the Hub.
        InputError: the folder on this machine holds no model.
    """
    source = get_source(name)
    if name.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise InputError(f"base.model: no folder '{name}'.")
    with _explain_failure(name):
        return AutoConfig.from_pretrained(
            source, revision=revision, local_files_only=connection_error() is not None, **TRUSTED_ONLY
        )


def load_base_processor(
    name: str, config: PretrainedConfig, revision: str | None = None, anatomy: ModelDescription | None = None
) -> Any:
    """Load the processor of a base.

    Args:
        name: Hub id, folder, or ``pocket``.
        config: of the base, by :func:`load_base_config`.
        revision: branch, tag or commit on the Hub.
        anatomy: the user's description of the model.

    Raises:
        InputError: it cannot be loaded, or needs a package that is not installed.
    """
    with _explain_failure(name):
        return load_processor(get_source(name), config, revision, anatomy)


@contextmanager
def _explain_failure(name: str) -> Iterator[None]:
    """Turn whatever transformers raises on the files of the base ``name``, which anyone may have written, into ours."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"base.model: '{name}' needs a package that is not installed: {reason}") from error
    except OSError as error:
        if name == POCKET or Path(get_source(name)).is_dir():
            raise InputError(f"base.model: '{name}' cannot be loaded: {root_cause(error)}") from error
        raise UnreachableError(
            f"base '{name}' is not a folder here, and cannot be loaded from the Hugging Face Hub "
            f"({connection_error() or root_cause(error)})"
        ) from error
    except Exception as error:  # on a config with wrong values: KeyError, TypeError, ZeroDivisionError, …
        if "trust_remote_code" in str(error):
            raise InputError(
                f"base.model: '{name}' needs Python code of its own, which lora-mm never runs. "
                "Use a base of a type that transformers knows (`lora-mm models list`)."
            ) from error
        reason = root_cause(error)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"base.model: '{name}' cannot be loaded: {kind}{reason}") from error


def get_default_device() -> torch.device:
    """The device for a model that is not quantised: the GPU if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
