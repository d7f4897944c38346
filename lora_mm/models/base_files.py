"""Where the files of a base are, and what identifies them. Loads no weights and imports no torch."""

import hashlib
import json
from pathlib import Path

from lora_mm import pocket

POCKET = "pocket"
"""The name by which recipes and adapters know the base that ships with the package."""

_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
"""Keys of ``config.json`` that differ between copies of one base."""

_HEAD = 256 * 1024  # bytes


def compute_fingerprint(folder: Path) -> str:
    """Hash the weights in a folder to 16 hexadecimal digits.

    Reads the architecture from ``config.json``, and the size and the first 256 KiB of every safetensors file (its
    header and first weights): another base, or the same one trained further, gives another fingerprint, and nothing of
    14 GB has to be read.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in _VOLATILE:
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_HEAD))
    return digest.hexdigest()[:16]


def get_source(name: str) -> str:
    """What transformers calls the base that recipes call ``name``: a folder, or a Hub id."""
    if name == POCKET:
        return str(pocket.BASE)
    return str(Path(name).expanduser()) if name.startswith("~") else name


def find_base_folder(name: str, revision: str | None = None, *, local_only: bool = False) -> Path:
    """The folder on this machine that holds a base: itself, or its copy in the Hub's cache.

    Args:
        name: Hub id, folder, or ``pocket``.
        revision: branch, tag or commit on the Hub.
        local_only: whether to take what is in the cache without asking the Hub.

    Raises:
        OSError, ValueError: when there is none; what the Hub's client raises.
    """
    source = get_source(name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "config.json", revision=revision, local_files_only=local_only)).parent
