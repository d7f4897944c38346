"""What an adapter folder is made of, and what may be in one. Knows files; knows no models and imports no torch."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_mm.errors import InputError
from lora_mm.json_text import read_json_file

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
RECIPE, PREPROCESSING, SCORES = "recipe.yaml", "preprocessing.json", "scores.json"

REQUIRED = (CONFIG, WEIGHTS, RECIPE, PREPROCESSING)
"""What every adapter folder holds."""

LIMITS = {
    CARD: 1_000_000,
    CONFIG: 10_000_000,
    WEIGHTS: 2_000_000_000,  # the output head of a 7B base trained whole, in fp32, is 0.5 GB
    PREPROCESSING: 1_000_000,
    RECIPE: 1_000_000,
    SCORES: 10_000_000,
}
"""The files that are shared, and the bytes that each may have. Checkpoints and single answers stay at home."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check_adapter_folder(folder: Path) -> None:
    """Raise InputError unless ``folder`` holds what an adapter folder must, and no pickle."""
    if not folder.is_dir():
        raise InputError(f"No adapter folder '{folder}'.")
    check_no_pickle(str(folder), [file.name for file in folder.iterdir()])
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: not an adapter folder of lora-mm; it lacks {', '.join(missing)}.")


def check_no_pickle(place: str, names: list[str]) -> None:
    """Raise InputError for a file in ``place`` that could hold code."""
    pickles = sorted(name for name in names if name.lower().endswith(_PICKLES))
    if pickles:
        raise InputError(
            f"{place}: holds a pickle ({', '.join(pickles)}), which runs code when read and is never read here; "
            f"take it out. Weights are read from {WEIGHTS} alone."
        )


def check_file_sizes(place: str, sizes: dict[str, int]) -> None:
    """Raise InputError for files of a folder, packed file or repository that are larger than they may be."""
    faults = [
        f"{place}: {name} has {size:,} bytes; the limit is {LIMITS[name]:,}."
        for name, size in sizes.items()
        if size > LIMITS[name]
    ]
    if faults:
        raise InputError(*faults)


def list_shared_files(folder: Path) -> list[Path]:
    """The files of an adapter folder that are shared, by name; raises InputError where they cannot be."""
    check_adapter_folder(folder)
    files = [folder / name for name in sorted(LIMITS) if (folder / name).is_file()]
    check_file_sizes(str(folder), {file.name: file.stat().st_size for file in files})
    read_tensor_shapes(folder / WEIGHTS)
    return files


def read_tensor_shapes(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Tensor → its shape and dtype (as safetensors names it: ``F32``, ``BF16``, …), read from the header alone."""
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  not a dictionary
            return {name: (tuple(item.get_shape()), item.get_dtype()) for name, item in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a whole safetensors file: {error}.") from error


def read_json_object(file: Path) -> dict[str, Any]:
    """The object in ``file``; raises InputError where there is none."""
    data = read_json_file(file)
    if not isinstance(data, dict):
        raise InputError(f"{file}: holds a {type(data).__name__}, not an object.")
    return data
