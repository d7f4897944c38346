"""Reads the PEFT config of an adapter from anyone, and refuses what lora-mm does not write. Knows no models.

PEFT itself takes more: other types of adapter, patterns of module names, and keys that change the base's weights or
import modules by name.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import peft
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_mm.adapters.config import PEFT_TYPE, RoutedConfig
from lora_mm.artifact.files import CONFIG, read_json_object
from lora_mm.errors import InputError, truncate_faults
from lora_mm.validation import explain_validation_error

ModulePath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]
"""The whole path of a module. PEFT would read a pattern too."""

Rank = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NoTargets = Literal["dummy-target-modules"]
"""PEFT's name for an adapter that only trains whole modules."""


class _Keys(BaseModel):
    """Keys of both types of adapter that may differ from PEFT's defaults."""

    model_config = ConfigDict(strict=True)

    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = True
    modules_to_save: list[ModulePath] | None = None


class _LoraKeys(_Keys):
    r: Rank = 8
    lora_alpha: Factor = 8.0
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_bias: bool = False
    target_modules: list[ModulePath] | NoTargets
    rank_pattern: dict[ModulePath, Rank] = {}
    alpha_pattern: dict[ModulePath, Factor] = {}


class _RoutedKeys(_Keys):
    placements: list[Any] = []
    anatomy: dict[str, Any] | None = None
    trained_parameters: list[ModulePath] | None = None
    target_modules: NoTargets | None = None


_TYPES: dict[str, tuple[type[peft.PeftConfig], type[_Keys]]] = {
    "LORA": (peft.LoraConfig, _LoraKeys),
    PEFT_TYPE: (RoutedConfig, _RoutedKeys),
}
"""PEFT type → its config, and the keys that may be set."""

_UNUSED = ("peft_type", "task_type", "auto_mapping")
"""Keys that are read before, or by PEFT's own loaders only, which import the class that ``auto_mapping`` names."""


def load_peft_config(folder: Path) -> peft.PeftConfig:
    """Load PEFT's config of the adapter in ``folder``, for inference.

    Raises:
        InputError: one line for each fault: a type of adapter or a key that lora-mm does not write, or a wrong value.
    """
    file = folder / CONFIG
    data = read_json_object(file)
    kind = data.get("peft_type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InputError(f"{file}: peft_type {kind!r} is not supported; lora-mm loads {' and '.join(_TYPES)}.")
    config_class, keys = _TYPES[kind]
    settings = {name: value for name, value in data.items() if name in keys.model_fields}
    faults = _find_other_settings(config_class, {name: data[name] for name in data.keys() - settings.keys()})
    try:
        keys.model_validate(settings)
        config = config_class(**settings) if not faults else None
    except ValidationError as error:
        faults += explain_validation_error(error, keys)
    except InputError as error:
        faults += error.faults
    except (TypeError, ValueError) as error:
        faults.append(str(error))
    if faults:
        raise InputError(*truncate_faults([f"{file}: {fault}" for fault in faults]))
    assert config is not None
    config.inference_mode = True
    return config


def list_sizes(config: peft.PeftConfig) -> list[int]:
    """List the ranks and the numbers of experts that a config asks for: each is a dimension of its weights."""
    if isinstance(config, RoutedConfig):
        return [size for item in config.placements for size in (item.rank, item.experts)]
    assert isinstance(config, peft.LoraConfig)
    if config.target_modules == {"dummy-target-modules"}:
        return []
    return [config.r, *(config.rank_pattern or {}).values()]


def _find_other_settings(config_class: type[peft.PeftConfig], others: dict[str, Any]) -> list[str]:
    """Find the keys that ask for what is not supported; those of newer versions of PEFT may be null or false."""
    default = config_class().to_dict()
    names = {item.name for item in fields(config_class)}
    return [
        f"{name}: {value!r} is not supported; leave it out."
        for name, value in sorted(others.items())
        if name not in _UNUSED and value != default.get(name) and not (name not in names and value is False)
    ]
