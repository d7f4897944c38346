"""The names of an adapter's tensors, in the model and in its file."""

from pathlib import Path

from safetensors.torch import load_file

import lora_mm
from tests.helpers.tiny import tiny_model

METHODS = ["mma", {"method": "moe_lora", "rank": 2}, {"method": "crop_lora", "rank": 2}]


def test_tensors_in_the_file_say_what_they_are_and_differ_by_more_than_case(tmp_path: Path) -> None:
    lora_mm.attach(tiny_model(), METHODS).save_pretrained(str(tmp_path))
    names = list(load_file(str(tmp_path / "adapter_model.safetensors")))
    assert len({name.lower() for name in names}) == len(names)
    assert {name.partition(".routed_")[2] for name in names} == {
        "down.weight", "down.bias", "up.weight", "up.bias", "router.weight", "router.bias", "scale.weight",
        "modality.weight",
    }  # fmt: skip
