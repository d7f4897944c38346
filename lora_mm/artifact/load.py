"""Puts a saved adapter on its base in one call, and loads the processor for it. Knows no recipe and no data."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import peft

from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.artifact.files import CONFIG, PREPROCESSING, WEIGHTS, check_no_pickle
from lora_mm.artifact.folder import put_adapter
from lora_mm.artifact.hub import find_adapter
from lora_mm.artifact.preprocessing import Mismatch, check_mismatches, read_allowed_tokens, read_trained_fit
from lora_mm.errors import InputError
from lora_mm.models.base_files import compute_fingerprint, find_base_folder
from lora_mm.models.fitting import make_fitting_processor
from lora_mm.models.loading import Base, get_default_device, load_base, load_base_config, load_base_processor
from lora_mm.models.picture_fit import describe_fit
from lora_mm.models.precision import DtypeChoice, Quantization
from lora_mm.models.special_tokens import allow_tokens
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.paths import resolve_path


def load(
    base: Any,
    adapter: str | Path,
    *,
    adapter_name: str = "default",
    revision: str | None = None,
    dtype: DtypeChoice = "bfloat16",
    quantization: Quantization = "none",
    accept: Collection[Mismatch] = (),
    kernels: Kernels = "auto",
) -> peft.PeftModel:
    """Put a saved adapter on its base, ready for inference.

    Args:
        base: a loaded transformers model, or the Hub id or folder of one, or ``pocket``, the base that ships with the
            package. A ``PeftModel`` with adapters of the same PEFT type gets this one too.
        adapter: a folder, a packed file or a Hub id (``ID@REVISION`` for a certain commit); also a folder that
            ``model.save_pretrained`` wrote after :func:`lora_mm.attach`.
        adapter_name: PEFT's name for the adapter.
        revision: branch, tag or commit of the base on the Hub; used if ``base`` is a name.
        dtype: of the base's weights that are not quantised; used if ``base`` is a name.
        quantization: ``nf4``, ``int8`` or ``none``; used if ``base`` is a name.
        accept: mismatches to warn of instead of refusing: ``base`` if it is not the base that the adapter was trained
            on, ``inputs`` if the processor prepares inputs differently.
        kernels: how the adapters' operations run: ``auto``, ``torch`` or ``triton``. A ``PeftModel`` keeps its own.

    Returns:
        A ``PeftModel`` in eval mode; a base that was given by name is on the GPU if there is one. Its inputs must be
        prepared as in training: see :func:`load_processor`.

    Raises:
        InputError: base or adapter cannot be loaded, or the adapter was trained on another base.

    Example:
        >>> model = lora_mm.load("pocket", "my-adapter")
    """
    folder = _find_folder(adapter)
    if isinstance(base, str | Path):
        loaded = load_base(str(base), revision=revision, dtype=dtype, quantization=quantization)
        if quantization == "none":
            loaded.model.to(get_default_device())
    else:
        loaded = _describe_loaded(base)
    if (folder / PREPROCESSING).is_file():  # written by lora-mm, with the base that the adapter is for
        check_mismatches(loaded, folder, accept)
    model = put_adapter(loaded.model, folder, adapter_name)
    if model is not base:
        set_kernels(model, kernels)
    return model


def load_processor(base: str | Path, adapter: str | Path, *, revision: str | None = None) -> Any:
    """Load a processor that prepares inputs as in an adapter's training.

    It is the base's own, and also pads pictures to squares if the adapter was trained so (``data.pictures.fit``). Its
    tokenizer does not skip special tokens that the adapter learnt to write (``data.special_tokens``).

    Args:
        base: Hub id or folder of the base, or ``pocket``.
        adapter: as for :func:`load`.
        revision: branch, tag or commit of the base on the Hub.

    Returns:
        A transformers processor.

    Raises:
        InputError: base or adapter cannot be loaded, or no processor of transformers fits pictures so for this base.

    Example:
        >>> processor = lora_mm.load_processor("pocket", "my-adapter")
    """
    folder = _find_folder(adapter)
    processor = load_base_processor(str(base), load_base_config(str(base), revision), revision)
    fit = read_trained_fit(folder) if (folder / PREPROCESSING).is_file() else "processor"
    if (folder / PREPROCESSING).is_file():
        processor = allow_tokens(processor, read_allowed_tokens(folder))
    fitting = make_fitting_processor(processor, fit)
    if fitting is None:
        raise InputError(
            f"{folder}: trained on pictures {describe_fit(fit)} (data.pictures.fit={fit}), which no processor of "
            f"transformers does for '{base}'.",
            "Do so before the base's own processor, or use `lora-mm evaluate` and `lora-mm generate`, which do it.",
        )
    return fitting


def _find_folder(adapter: str | Path) -> Path:
    """Find the folder of an adapter. A local folder needs PEFT's two files only."""
    folder = resolve_path(adapter, "adapter")
    if not folder.is_dir():
        return find_adapter(adapter)
    check_no_pickle(str(folder), [file.name for file in folder.iterdir()])
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: not an adapter folder; it lacks {', '.join(missing)}.")
    return folder


def _describe_loaded(model: Any) -> Base:
    """Describe a model that the caller loaded: with its fingerprint if its files are here, without processor."""
    root: Any = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    name, revision = root.config.name_or_path, getattr(root.config, "_commit_hash", None)
    try:
        fingerprint = compute_fingerprint(find_base_folder(name, revision, local_only=True)) if name else ""
    except (OSError, ValueError):  # its files are not here
        fingerprint = ""
    return Base(name, model, None, revision, fingerprint)
