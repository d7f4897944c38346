"""Which adapters can be merged, decided from their PEFT configs alone. Knows no model, no tensor and no file."""

from collections.abc import Iterable, Mapping

import peft

from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.placement import Placement
from lora_mm.errors import InputError

_NOT_ONE_WEIGHT = {
    "crop": "each crop of a picture has its own update of the same weight, and the overview has none",
    "visual": "only visual tokens are updated, and text tokens pass the same weight",
    "token": "each token chooses its own experts among the updates of the same weight",
}
"""Router → why one weight cannot hold all its experts."""


def check_mergeable(configs: Mapping[str, peft.PeftConfig], modality: str | None) -> None:
    """Check that all changes of the adapters can become one weight per layer.

    Args:
        configs: adapter's name → its PEFT config.
        modality: modality to merge for; None if none was chosen.

    Raises:
        InputError: one line for each adapter or placement that cannot be merged.
    """
    faults: list[str] = []
    trained_by: dict[str, str] = {}
    for name, config in configs.items():
        faults += _list_config_faults(name, config)
        for path in getattr(config, "modules_to_save", None) or []:
            if path in trained_by:
                faults.append(f"{name} and {trained_by[path]} both train {path} whole; leave out one of them.")
            trained_by[path] = name
    if modality is None and depends_on_modality(configs.values()):
        faults.append(
            "mma on language has different weights for each modality, and a merged weight holds one of them. Give "
            "--modality image or --modality text (both outputs together are the whole adapter), or keep the adapter."
        )
    if faults:
        raise InputError(*faults)


def depends_on_modality(configs: Iterable[peft.PeftConfig]) -> bool:
    """Whether an adapter in the language model computes differently for each modality."""
    return any(
        item.row.router == "modality" and item.part == "language"
        for config in configs
        for item in _get_placements(config)
    )


def _list_config_faults(name: str, config: peft.PeftConfig) -> list[str]:
    if isinstance(config, peft.LoraConfig):
        if config.use_dora or config.layer_replication or config.target_parameters:
            return [f"{name}: only plain LoRA of PEFT can be merged here; use PEFT's merge_and_unload for this kind."]
        return []
    if not isinstance(config, RoutedConfig):
        return [f"{name}: adapters of PEFT type {config.peft_type} cannot be merged here."]
    return [
        f"{name}: {item} cannot be merged: {_NOT_ONE_WEIGHT[item.row.router]}. Keep it as an adapter (evaluate, "
        "generate and share use it as it is), or train `lora` instead."
        for item in _get_placements(config)
        if item.row.router in _NOT_ONE_WEIGHT
    ]


def _get_placements(config: peft.PeftConfig) -> list[Placement]:
    return config.placements if isinstance(config, RoutedConfig) else []
