"""Writes which base and preprocessing an adapter was trained with, and compares them at loading.

Knows bases, processors and one file, ``preprocessing.json``. Knows no weights, and imports no torch.
"""

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lora_mm.artifact.files import PREPROCESSING, read_json_object
from lora_mm.errors import InputError
from lora_mm.models.picture_fit import Fit

if TYPE_CHECKING:
    from lora_mm.models.loading import Base

Mismatch = Literal["base", "inputs"]
"""A difference from training that a user may accept: another base, or differently prepared inputs."""

_IMAGE_KEYS = (
    "size", "crop_size", "image_mean", "image_std", "rescale_factor", "do_resize", "do_center_crop", "resample",
    "do_pad", "min_pixels", "max_pixels", "patch_size", "merge_size",
)  # fmt: skip
"""Settings of an image processor that change what the model sees."""

_FIT = "pictures_fit"
"""Key of the fit among the inputs; absent where the processor does all itself."""
_TOKENS = "special_tokens"
"""Key of the special tokens that texts may spell; absent without any."""


def write_preprocessing(folder: Path, base: "Base", fit: Fit = "processor", special_tokens: Sequence[str] = ()) -> None:
    """Write ``preprocessing.json``: the base's identity, where its parts are, and how its inputs are prepared.

    Args:
        folder: the adapter's folder.
        base: the base that the adapter was trained on.
        fit: how pictures were fitted before the base's processor.
        special_tokens: special tokens that texts may spell (:func:`~lora_mm.models.special_tokens.allow_tokens`).
    """
    from lora_mm.models.anatomy import get_anatomy

    facts = {
        "base": _identify_base(base),
        "parts": get_anatomy(base.model).parts,
        "inputs": describe_preprocessing(base.processor, fit, special_tokens),
    }
    (folder / PREPROCESSING).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_trained_base(folder: Path) -> dict[str, Any]:
    """Read the base that the adapter in ``folder`` was trained on: ``name``, ``revision`` and ``fingerprint``."""
    return _get_section(read_json_object(folder / PREPROCESSING), "base")


def read_trained_fit(folder: Path) -> Fit:
    """Read how pictures were fitted before the base's processor when the adapter in ``folder`` was trained.

    Raises:
        InputError: the file names a fit that is not known.
    """
    fit: Fit = _get_section(read_json_object(folder / PREPROCESSING), "inputs").get(_FIT, "processor")
    if fit not in get_args(Fit):
        raise InputError(f"{folder / PREPROCESSING}: unknown {_FIT} {fit!r}. Known: {', '.join(get_args(Fit))}.")
    return fit


def read_allowed_tokens(folder: Path) -> list[str]:
    """Read which special tokens texts could spell when the adapter in ``folder`` was trained.

    Raises:
        InputError: the file does not list texts.
    """
    tokens = _get_section(read_json_object(folder / PREPROCESSING), "inputs").get(_TOKENS, [])
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{folder / PREPROCESSING}: {_TOKENS} must be a list of texts.")
    return tokens


def describe_preprocessing(
    processor: Any, fit: Fit = "processor", special_tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """Describe how inputs are prepared: image sizes and statistics, hash of the chat template, special tokens.

    Args:
        processor: the base's processor.
        fit: how pictures are fitted before it; left out of the description where it does all itself.
        special_tokens: special tokens that texts may spell; left out of the description without any.
    """
    image = processor.image_processor.to_dict()
    template = processor.chat_template or ""
    tokenizer = processor.tokenizer
    fitting = {} if fit == "processor" else {_FIT: fit}
    allowed = {_TOKENS: sorted(special_tokens)} if special_tokens else {}
    return {
        **fitting,
        **allowed,
        "image": {name: _to_plain_json(image[name]) for name in _IMAGE_KEYS if image.get(name) is not None},
        "chat_template": hashlib.sha256(str(template).encode()).hexdigest()[:16],
        "tokens": {"vocabulary": len(tokenizer), "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id},
    }


def check_mismatches(
    base: "Base",
    folder: Path,
    accept: Collection[Mismatch],
    fit: Fit | None = None,
    special_tokens: Sequence[str] | None = None,
) -> None:
    """Compare a base with the one an adapter was trained on; warn of accepted mismatches.

    Args:
        base: the base to put the adapter on. A missing fingerprint or processor is not compared.
        folder: the adapter's folder.
        accept: mismatches to warn of instead of refusing.
        fit: how pictures will be fitted before the base's processor; None does not compare it.
        special_tokens: special tokens that texts may spell; None does not compare them.

    Raises:
        InputError: a mismatch that is not accepted, or an unknown name in ``accept``.
    """
    facts = read_json_object(folder / PREPROCESSING)
    mismatches: dict[Mismatch, list[str]] = {"base": [], "inputs": []}
    if base.fingerprint:
        mismatches["base"] = _explain_other_base(_get_section(facts, "base"), _identify_base(base))
    if base.processor is not None:
        trained = _get_section(facts, "inputs")
        inputs = describe_preprocessing(base.processor, fit or trained.get(_FIT, "processor"), special_tokens or ())
        if special_tokens is None and _TOKENS in trained:
            inputs[_TOKENS] = trained[_TOKENS]
        mismatches["inputs"] = _explain_other_inputs(trained, inputs)
    unknown = [kind for kind in accept if kind not in mismatches]
    if unknown:
        raise InputError(f"Cannot accept '{unknown[0]}'. Known: {', '.join(get_args(Mismatch))}.")
    refused: list[str] = []
    for kind, lines in mismatches.items():
        if lines and kind in accept:
            warnings.warn(f"{folder}: {' '.join(lines[:-1])} Accepted.", stacklevel=3)
        elif lines:
            refused += [f"{folder}: {lines[0]}", *lines[1:]]
    if refused:
        raise InputError(*refused)


def check_same_base(folders: Sequence[Path]) -> None:
    """Check, before anything large is loaded, that adapters were trained on one base.

    Args:
        folders: the adapters' folders.

    Raises:
        InputError: they were trained on different bases; names each base.
    """
    bases = {folder: read_trained_base(folder) for folder in folders}
    if len({base.get("fingerprint") for base in bases.values()}) > 1:
        trained_on = "; ".join(f"{folder} on '{base.get('name')}'" for folder, base in bases.items())
        raise InputError(f"The adapters were trained on different bases ({trained_on}); merge each on its own.")


def _identify_base(base: "Base") -> dict[str, str | None]:
    return {"name": base.name, "revision": base.revision, "fingerprint": base.fingerprint}


def _get_section(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = facts.get(name)
    return section if isinstance(section, dict) else {}


def _explain_other_base(trained: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Explain how the bases differ, and what to do; empty for the same base under any name."""
    if trained.get("fingerprint") == current["fingerprint"]:
        return []
    return [
        f"trained on {_describe_base(trained)}, but this is {_describe_base(current)}.",
        "Give the base it was trained on: `--set base.model=FOLDER-OR-HUB-ID` (and base.revision); or use this one "
        "knowingly: `--accept base`.",
    ]


def _describe_base(base: Mapping[str, Any]) -> str:
    revision = f"revision {base['revision']}, " if base.get("revision") else ""
    return f"base '{base.get('name')}' ({revision}fingerprint {base.get('fingerprint')})"


def _explain_other_inputs(trained: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Explain how the preparation of inputs differs, and what to do; empty for no difference."""
    differences = [
        f"{section}: trained with {json.dumps(trained.get(section))}, now {json.dumps(current.get(section))}"
        for section in {**current, **trained}
        if trained.get(section) != current.get(section)
    ]
    if not differences:
        return []
    return [
        "inputs are prepared differently than in training:",
        *differences,
        "Use the processor files of the base it was trained on and its recipe's data.pictures and "
        "data.special_tokens; or use these knowingly: "
        "`--accept inputs`.",
    ]


def _to_plain_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda item: dict(item) if hasattr(item, "keys") else str(item)))
