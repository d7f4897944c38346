"""PEFT configs from anyone: what lora-mm writes is loaded, and everything else is refused by its key."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest

import lora_mm
from lora_mm.artifact.files import CONFIG
from lora_mm.artifact.folder import put_adapter
from lora_mm.artifact.peft_config import load_peft_config
from lora_mm.errors import InputError
from tests.helpers import tiny

METHODS: dict[str, list[Any]] = {
    "lora": [{"method": "lora", "rank": 2}, {"method": "lora", "part": "vision", "rank": 4, "alpha": 3}],
    "routed": [{"method": "mma", "rank": 4}],
    "whole": [],
}


@pytest.fixture(params=METHODS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An adapter of each kind as PEFT saves it."""
    lora_mm.attach(tiny.tiny_model(), METHODS[request.param], train=["connector"]).save_pretrained(str(tmp_path))
    return tmp_path


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    lora_mm.attach(tiny.tiny_model(), METHODS["lora"]).save_pretrained(str(tmp_path))
    return tmp_path


def change(folder: Path, **keys: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **keys}))


def refusal(folder: Path) -> list[str]:
    with pytest.raises(InputError) as error:
        load_peft_config(folder)
    assert all(fault.startswith(f"{folder / CONFIG}: ") for fault in error.value.faults)
    return [fault.removeprefix(f"{folder / CONFIG}: ") for fault in error.value.faults]


def test_what_is_saved_is_loaded_equal(folder: Path) -> None:
    expected = peft.PeftConfig.from_pretrained(str(folder))
    expected.auto_mapping = None  # a class to import, which only PEFT's own loaders do
    assert load_peft_config(folder) == expected
    put_adapter(tiny.tiny_model(), folder)


@pytest.mark.parametrize("kind", ["XLORA", "LOHA", "PROMPT_TUNING", "", 3, None, ["LORA"]])
def test_other_types_of_adapter_are_refused(lora: Path, kind: object) -> None:
    change(lora, peft_type=kind)
    assert refusal(lora) == [f"peft_type {kind!r} is not supported; lora-mm loads LORA and ROUTED."]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exclude_modules", "model.*"),
        ("layer_replication", [[0, 2]]),
        ("use_dora", True),
        ("use_rslora", True),
        ("init_lora_weights", "pissa"),
        ("megatron_config", {}),
        ("megatron_core", "antigravity"),
        ("target_parameters", ["x"]),
        ("trainable_token_indices", [1]),
        ("bias", "all"),
        ("a_key_of_tomorrow", 1),
    ],
)
def test_keys_that_lora_mm_does_not_write_are_refused(lora: Path, key: str, value: object) -> None:
    change(lora, **{key: value})
    assert refusal(lora) == [f"{key}: {value!r} is not supported; leave it out."]


def test_a_key_of_tomorrow_that_asks_for_nothing_is_accepted(folder: Path) -> None:
    change(folder, use_something_new=False, something_else=None)
    load_peft_config(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", "8"),
        ("r", True),
        ("lora_alpha", -1.0),
        ("lora_dropout", 2.0),
        ("target_modules", "(a+)+$"),
        ("target_modules", ["(a+)+$"]),
        ("target_modules", None),
        ("rank_pattern", {"(a+)+$": 4}),
        ("rank_pattern", {"model": 0}),
        ("modules_to_save", "model"),
        ("base_model_name_or_path", 3),
    ],
)
def test_wrong_values_are_refused_by_key(lora: Path, key: str, value: object) -> None:
    change(lora, **{key: value})
    faults = refusal(lora)
    assert faults
    assert all(fault.startswith(key) for fault in faults)


def test_all_faults_are_listed_at_once(lora: Path) -> None:
    change(lora, r=0, lora_dropout=3, use_dora=True)
    assert len(refusal(lora)) == 3


@pytest.mark.parametrize("key", ["target_modules", "modules_to_save"])
def test_a_module_that_the_base_lacks_is_refused(lora: Path, key: str) -> None:
    change(lora, **{key: ["model.nowhere"]})
    with pytest.raises(InputError, match="does not fit this base"):
        put_adapter(tiny.tiny_model(), lora)
