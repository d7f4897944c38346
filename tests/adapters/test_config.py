"""RoutedConfig as a PEFT config: a real type of its own, written to JSON and read back equal."""

import copy
import json
import pickle
from pathlib import Path

import peft
import pytest
from peft.utils import PeftType

from lora_mm.adapters.config import PEFT_TYPE, RoutedConfig
from lora_mm.adapters.placement import Placement
from lora_mm.errors import InputError

PLACEMENTS = [
    "mma",
    {"method": "mma", "part": "vision", "at": "block", "rank": 4, "bias": False, "scale": 0.5, "layers": [0, 2]},
    {"method": "lora", "at": "all", "alpha": 8},
    {"method": "crop_lora", "tied_qkv": True, "drops": "input"},
    {"method": "visual_expert", "marks": True, "layers": "even"},
]


def test_survives_saving_and_loading(tmp_path: Path) -> None:
    config = RoutedConfig(placements=PLACEMENTS, modules_to_save=["model.multi_modal_projector"])
    config.base_model_name_or_path = "somewhere/base"
    config.save_pretrained(str(tmp_path))
    loaded = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert type(loaded) is RoutedConfig
    assert loaded.placements == config.placements
    assert loaded.modules_to_save == ["model.multi_modal_projector"]
    assert loaded.base_model_name_or_path == "somewhere/base"


def test_file_says_the_type_and_every_number(tmp_path: Path) -> None:
    RoutedConfig(placements=["mma"]).save_pretrained(str(tmp_path))
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == PEFT_TYPE == "ROUTED"
    (item,) = saved["placements"]
    assert item["temperature"] == 10.0
    assert item["groups"] == 2
    assert "targets" not in saved


def test_dictionaries_become_placements() -> None:
    assert all(isinstance(item, Placement) for item in RoutedConfig(placements=PLACEMENTS).placements)


def test_a_wrong_placement_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"rnak: unknown key. Did you mean 'rank'\?"):
        RoutedConfig(placements=[{"method": "mma", "rnak": 4}])


def test_the_type_is_a_member_of_pefts_enumeration() -> None:
    member = PeftType(PEFT_TYPE)
    assert member.value == PEFT_TYPE
    assert RoutedConfig().peft_type is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member
    assert PEFT_TYPE in [item.value for item in PeftType]


def test_a_config_is_copied_and_pickled_whole() -> None:
    config = RoutedConfig(placements=PLACEMENTS)
    assert copy.deepcopy(config).placements == config.placements
    assert pickle.loads(pickle.dumps(config)).placements == config.placements
