"""Finds the files of a base and computes their fingerprint. Loads no weights and imports no torch."""

import hashlib
import json
from pathlib import Path

from lora_mm import pocket
from lora_mm.json_text import read_json_file
from lora_mm.paths import resolve_path

POCKET = "pocket"
"""The name by which recipes and adapters know the base that ships with the package."""

_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
"""Keys of ``config.json`` that differ between copies of one base."""

_HEAD_BYTES = 256 * 1024


def compute_fingerprint(folder: Path) -> str:
    """Hash the weights in a folder to 16 hexadecimal digits.

    Reads the architecture from ``config.json``, and the size and the first 256 KiB of every safetensors file (its
    header and first weights). Another base, or the same one trained further, gives another fingerprint, and 14 GB of
    weights need not be read.
    """
    digest = hashlib.sha256()
    config = read_json_file(folder / "config.json")
    for key in _VOLATILE:
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_HEAD_BYTES))
    return digest.hexdigest()[:16]


def get_source(name: str) -> str:
    """Get the folder or Hub id by which transformers loads the base that recipes call ``name``.

    Raises:
        InputError: no folder can have this name.
    """
    if name == POCKET:
        return str(pocket.BASE)
    path = resolve_path(name, "base.model")
    return str(path) if name.startswith("~") else name


def find_base_folder(name: str, revision: str | None = None, *, local_only: bool = False) -> Path:
    """Find the folder of a base on this machine: the base itself, or its copy in the Hub's cache.

    Args:
        name: Hub id, folder, or ``pocket``.
        revision: branch, tag or commit on the Hub.
        local_only: whether to look in the cache only, without contacting the Hub.

    Raises:
        OSError, ValueError: there is none; raised by the Hub's client.
    """
    source = get_source(name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "config.json", revision=revision, local_files_only=local_only)).parent
