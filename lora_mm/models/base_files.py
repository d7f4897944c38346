"""Finds the files of a base and computes their fingerprint. Loads no weights and imports no torch."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lora_mm import pocket
from lora_mm.errors import InputError, truncate_faults
from lora_mm.json_text import read_json_file
from lora_mm.paths import resolve_path

POCKET = "pocket"
"""The name by which recipes and adapters know the base that ships with the package."""

TRUSTED_ONLY: dict[str, Any] = {"trust_remote_code": False}
"""Options of every ``from_pretrained``: no base runs its own Python, and nobody is asked whether it may."""

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


def check_weight_files(name: str, revision: str | None = None, *, offline: bool = False) -> None:
    """Check that the weights of a base are safetensors beside its config, which the fingerprint covers.

    Args:
        name: Hub id, folder, or ``pocket``. From the Hub, the file or the index of the weights is downloaded.
        revision: branch, tag or commit on the Hub.
        offline: whether to look in the cache only, without contacting the Hub.

    Raises:
        InputError: the weights are of another kind, such as pickles, or the index names files elsewhere.
        OSError: raised by the Hub's client.
    """
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

    quiet = {f"_raise_exceptions_for_{kind}": False for kind in ("missing_entries", "connection_errors")}
    options: Any = {"revision": revision, "local_files_only": offline, **quiet}
    if cached_file(get_source(name), SAFE_WEIGHTS_NAME, **options) is not None:
        return
    index = cached_file(get_source(name), SAFE_WEIGHTS_INDEX_NAME, **options)
    if index is None and offline and not Path(get_source(name)).is_dir():
        return  # not in the cache: loading says so
    if index is None:
        raise InputError(
            f"base.model: '{name}' cannot be loaded: it has no weights in safetensors ({SAFE_WEIGHTS_NAME}). A pickle "
            "such as pytorch_model.bin is not read, because it can run code: convert it, or use another base."
        )
    content = read_json_file(Path(index))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    files = sorted({str(file) for file in shards.values()}) if isinstance(shards, dict) else []
    strange = [
        f"{index}: {file!r} is not a safetensors file of the same folder." for file in files if not _is_shard(file)
    ]
    if strange or not files:
        raise InputError(*(truncate_faults(strange) or [f"{index}: names no files of weights (weight_map)."]))


def _is_shard(file: str) -> bool:
    return re.fullmatch(r"[\w.-]+\.safetensors", file) is not None


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
