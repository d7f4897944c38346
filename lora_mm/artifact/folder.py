"""The adapter folder: written whole, and loaded only onto the base it was trained on, every tensor accounted for.

Knows files, bases and PEFT; knows no recipe's meaning, no data and no scores (they come in as text).
"""

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import peft
import torch
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lora_mm.adapters.attach import train_whole_in_fp32
from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.artifact.files import CONFIG, PREPROCESSING, RECIPE, WEIGHTS, check_adapter_folder, read_json_object
from lora_mm.errors import InputError, LoraMMError, truncate_faults
from lora_mm.models.anatomy import get_anatomy
from lora_mm.models.loading import Base
from lora_mm.ops.kernel_choice import Kernels

Mismatch = Literal["base", "inputs"]
"""What an adapter may knowingly be loaded against: another base than its own, or inputs prepared otherwise."""


def save_adapter(
    model: peft.PeftModel, folder: Path, *, base: Base, recipe: str, dtype: torch.dtype = torch.float32
) -> None:
    """Write everything but the model card: config, weights, resolved recipe, and what the base and its inputs were.

    Args:
        model: as :func:`~lora_mm.adapters.attach.attach` returned it.
        folder: made if it does not exist.
        base: what the adapter was trained on.
        recipe: the resolved recipe, as YAML.
        dtype: of the tensors in the file; round the model first (:func:`round_adapter_weights`), or it
            computes another thing.
    """
    model.peft_config["default"].base_model_name_or_path = base.name
    model.peft_config["default"].revision = base.revision
    model.save_pretrained(str(folder), save_embedding_layers=False)
    if dtype != torch.float32:
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(str(folder / WEIGHTS)).items()}
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    (folder / RECIPE).write_text(recipe, encoding="utf-8")
    facts = {
        "base": _identity(base),
        "parts": get_anatomy(base.model).parts,
        "inputs": describe_preprocessing(base.processor),
    }
    (folder / PREPROCESSING).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def round_adapter_weights(model: peft.PeftModel, dtype: torch.dtype) -> None:
    """Round everything that trains to what ``dtype`` can hold, so that the model computes what the saved file will.

    Raises:
        LoraMMError: naming the tensor, for a value beyond the reach of ``dtype``.
    """
    if dtype == torch.float32:
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rounded = parameter.data.to(dtype)
            if not rounded.isfinite().all():
                raise LoraMMError(f"save_dtype: {name} holds values too large for {dtype}; take bfloat16 or float32.")
            parameter.data.copy_(rounded)


def load_adapter(
    base: Base,
    folder: Path,
    name: str = "default",
    *,
    onto: peft.PeftModel | None = None,
    accept: Collection[Mismatch] = (),
    kernels: Kernels = "auto",
) -> peft.PeftModel:
    """Put the adapter in ``folder`` on ``base``, ready for inference, under PEFT's ``name`` for it.

    Args:
        name: any but those already there.
        onto: ``base`` with adapters of the same PEFT type, to add this one to; which is active stays as it is
            (``onto.set_adapter(name)`` switches).
        accept: mismatches that are to be warned of, not refused.
        kernels: form of their operations, as in :func:`~lora_mm.adapters.attach.attach`; ``onto`` keeps its own.

    Raises:
        InputError: for a folder that is no adapter, one of another base or of inputs prepared otherwise, one that
            cannot stand beside those in ``onto``, and for missing, unexpected or misshapen tensors: each named.
    """
    check_adapter_folder(folder)
    _check_mismatches(base, folder, accept)
    config = load_peft_config(folder)
    config.inference_mode = True
    # The check of every tensor follows: PEFT itself loads what fits and says nothing of the rest.
    if onto is None:
        model = peft.PeftModel(base.model, config, adapter_name=name)
        set_kernels(model, kernels)
    else:
        model = _beside(onto, config, name, folder)
    train_whole_in_fp32(model, name)  # as they were trained; rounded they would score otherwise
    tensors = _tensors(folder / WEIGHTS)
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    faults = [f"missing tensor {name}" for name in expected if name not in tensors]
    faults += [f"unexpected tensor {name}" for name in tensors if name not in expected]
    faults += [
        f"tensor {name} is {tuple(tensors[name].shape)}, the model's is {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if faults:
        model.delete_adapter(name)
        raise InputError(f"{folder / WEIGHTS}: does not fit its own config on this base:", *truncate_faults(faults))
    set_peft_model_state_dict(model, tensors, adapter_name=name)
    model.eval()
    return model


def describe_preprocessing(processor: Any) -> dict[str, Any]:
    """What makes inputs what they are: picture sizes and statistics, the chat template's hash, special tokens."""
    image = processor.image_processor.to_dict()
    kept = ("size", "crop_size", "image_mean", "image_std", "rescale_factor", "do_resize", "do_center_crop", "resample",
            "do_pad", "min_pixels", "max_pixels", "patch_size", "merge_size")  # fmt: skip
    template = processor.chat_template or ""
    tokenizer = processor.tokenizer
    return {
        "image": {name: _plain(image[name]) for name in kept if image.get(name) is not None},
        "chat_template": hashlib.sha256(str(template).encode()).hexdigest()[:16],
        "tokens": {"vocabulary": len(tokenizer), "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id},
    }


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda item: dict(item) if hasattr(item, "keys") else str(item)))


def _identity(base: Base) -> dict[str, str | None]:
    return {"name": base.name, "revision": base.revision, "fingerprint": base.fingerprint}


def _check_mismatches(base: Base, folder: Path, accept: Collection[Mismatch]) -> None:
    """Warn of what is accepted, and raise InputError for the rest."""
    facts = read_json_object(folder / PREPROCESSING)
    found: dict[Mismatch, list[str]] = {
        "base": _other_base(_section(facts, "base"), _identity(base)),
        "inputs": _other_inputs(_section(facts, "inputs"), describe_preprocessing(base.processor)),
    }
    unknown = [kind for kind in accept if kind not in found]
    if unknown:
        raise InputError(f"Cannot accept '{unknown[0]}'; what can be accepted is: {', '.join(get_args(Mismatch))}.")
    refused: list[str] = []
    for kind, lines in found.items():
        if lines and kind in accept:
            warnings.warn(f"{folder}: {' '.join(lines[:-1])} Accepted.", stacklevel=3)
        elif lines:
            refused += [f"{folder}: {lines[0]}", *lines[1:]]
    if refused:
        raise InputError(*refused)


def _section(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = facts.get(name)
    return section if isinstance(section, dict) else {}


def _other_base(trained: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """How the base of training is not the one here, and the ways out; nothing when it is, by whatever name."""
    if trained.get("fingerprint") == here["fingerprint"]:
        return []
    return [
        f"trained on {_described(trained)}, not on {_described(here)}.",
        "Give the base it was trained on: `--set base.model=FOLDER-OR-HUB-ID` (and base.revision); or take this one "
        "knowingly: `--accept base`.",
    ]


def _described(base: Mapping[str, Any]) -> str:
    revision = f"revision {base['revision']}, " if base.get("revision") else ""
    return f"base '{base.get('name')}' ({revision}fingerprint {base.get('fingerprint')})"


def _other_inputs(trained: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """How inputs are prepared otherwise than in training, and the ways out; nothing when they are not."""
    unlike = [
        f"{section}: trained with {json.dumps(trained.get(section))}, now {json.dumps(here[section])}"
        for section in here
        if trained.get(section) != here[section]
    ]
    return unlike and [
        "the base's processor prepares inputs otherwise than in training:",
        *unlike,
        "Take the processor files of the base it was trained on; or take these knowingly: `--accept inputs`.",
    ]


def _beside(model: peft.PeftModel, config: peft.PeftConfig, name: str, folder: Path) -> peft.PeftModel:
    """``model`` with room for one more adapter."""
    if config.peft_type != model.peft_type:
        ours, theirs = config.peft_type.value, model.peft_type.value
        raise InputError(
            f"{folder}: is a {ours} adapter, and those already on the base are {theirs}; "
            "PEFT holds one type at a time (plain LoRA is LORA, all other methods are ROUTED). Load it on its own."
        )
    model.add_adapter(name, config)
    return model


def load_peft_config(folder: Path) -> peft.PeftConfig:
    """PEFT's config of the adapter in ``folder``; raises InputError naming what cannot be in it."""
    data = read_json_object(folder / CONFIG)
    known = peft.PEFT_TYPE_TO_CONFIG_MAPPING
    if data.get("peft_type") not in known:
        raise InputError(f"{folder / CONFIG}: unknown peft_type {data.get('peft_type')!r}.")
    try:
        return peft.PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error


def _tensors(file: Path) -> dict[str, Any]:
    try:
        with safe_open(str(file), framework="pt"):
            return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a whole safetensors file: {error}.") from error
