"""Says before training whether an adapter will merge into base weights. Writes nothing."""

from typing import Any

import peft
import torch

from lora_mm.errors import InputError
from lora_mm.merging.collect import collect_changes
from lora_mm.merging.mergeable import check_mergeable, depends_on_modality
from lora_mm.merging.writers import check_biases
from lora_mm.models.anatomy import list_modalities


def find_merge_obstacles(model: peft.PeftModel) -> list[str]:
    """Find why the adapter on a model cannot become base weights; empty if it can.

    Args:
        model: the base with its adapter, trained or not.
    """
    base: Any = model.get_base_model()
    configs = {"this adapter": model.peft_config["default"]}
    modality = list_modalities(base)[-1] if depends_on_modality(configs.values()) else None
    try:
        check_mergeable(configs, modality)
        check_biases(base, collect_changes(base, modality), torch.float32)
    except InputError as error:
        return list(error.faults)
    return []
