"""The files of an adapter folder, and checks of its content. Knows no models and imports no torch."""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_mm.errors import InputError, truncate_faults
from lora_mm.json_text import read_json_file

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
RECIPE, PREPROCESSING, SCORES = "recipe.yaml", "preprocessing.json", "scores.json"

REQUIRED = (CONFIG, WEIGHTS, RECIPE, PREPROCESSING)
"""Files that every adapter folder must hold."""

LIMITS = {
    CARD: 1_000_000,
    CONFIG: 10_000_000,
    WEIGHTS: 2_000_000_000,  # the output head of a 7B base trained whole, in fp32, is 0.5 GB
    PREPROCESSING: 1_000_000,
    RECIPE: 1_000_000,
    SCORES: 10_000_000,
}
"""Shared file → its maximum bytes. Checkpoints and answers are not shared."""

DTYPES = ("F32", "F16", "BF16")
"""Types of the tensors of an adapter, in safetensors' names."""

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check_adapter_folder(folder: Path) -> None:
    """Raise InputError unless ``folder`` holds all required files, and no pickle."""
    if not folder.is_dir():
        raise InputError(f"No adapter folder '{folder}'.")
    check_no_pickle(str(folder), [file.name for file in folder.iterdir()])
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: not an adapter folder of lora-mm; it lacks {', '.join(missing)}.")


def check_no_pickle(place: str, names: list[str]) -> None:
    """Check that no file could run code when read.

    Args:
        place: folder, packed file or repository, for the message.
        names: names of its files.

    Raises:
        InputError: a file has the suffix of a pickle.
    """
    pickles = sorted(name for name in names if name.lower().endswith(_PICKLE_SUFFIXES))
    if pickles:
        raise InputError(
            f"{place}: holds a pickle ({', '.join(map(repr, pickles))}), which runs code when read. Remove it; weights "
            f"are read from {WEIGHTS} only."
        )


def check_file_sizes(place: str, sizes: dict[str, int]) -> None:
    """Check the sizes of an adapter's files.

    Args:
        place: folder, packed file or repository, for the message.
        sizes: file of :data:`LIMITS` → its bytes.

    Raises:
        InputError: one line for each file above its limit.
    """
    faults = [
        f"{place}: {name} has {size:,} bytes; the limit is {LIMITS[name]:,}."
        for name, size in sizes.items()
        if size > LIMITS[name]
    ]
    if faults:
        raise InputError(*faults)


def list_shared_files(folder: Path) -> list[Path]:
    """List the files of an adapter folder that are shared, sorted by name.

    Raises:
        InputError: not an adapter folder, a link or another file that is not regular, a file above its limit, or
            weights that cannot be read or used.
    """
    check_adapter_folder(folder)
    files = [folder / name for name in sorted(LIMITS) if os.path.lexists(folder / name)]
    strange = [f"{file}: is not a regular file but {kind}." for file in files if (kind := _find_other_kind(file))]
    if strange:
        raise InputError(*strange)
    check_file_sizes(str(folder), {file.name: file.stat().st_size for file in files})
    check_dtypes(folder / WEIGHTS, read_tensor_shapes(folder / WEIGHTS))
    return files


def _find_other_kind(file: Path) -> str | None:
    """What ``file`` is instead of a regular file. The Hub's cache has links to the blobs of the same repository."""
    if file.is_symlink() and file.resolve().parent != file.parent.resolve().parent.parent / "blobs":
        return f"a link to {file.readlink()}, whose content would be sent; put a copy in its place"
    return None if file.is_file() else "a folder, a pipe or a device"


def check_dtypes(file: Path, tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Check that the tensors of an adapter are of a type in :data:`DTYPES`.

    Args:
        file: file of the tensors, for the message.
        tensors: what :func:`read_tensor_shapes` returned for it.

    Raises:
        InputError: one line for each tensor of another type.
    """
    faults = [f"{name} is {dtype}" for name, (_, dtype) in sorted(tensors.items()) if dtype not in DTYPES]
    if faults:
        raise InputError(f"{file}: weights of an adapter are {', '.join(DTYPES)}:", *truncate_faults(faults))


def read_tensor_shapes(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Read each tensor's shape and dtype (in safetensors' names: ``F32``, ``BF16``, …) from the header alone."""
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  not a dictionary
            return {name: (tuple(item.get_shape()), item.get_dtype()) for name, item in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a complete safetensors file: {error}.") from error


def read_json_object(file: Path) -> dict[str, Any]:
    """Read the JSON object in ``file``; raises InputError for anything else."""
    data = read_json_file(file)
    if not isinstance(data, dict):
        raise InputError(f"{file}: holds a {type(data).__name__}, not a JSON object.")
    return data
