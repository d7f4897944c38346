"""Bases from strangers: no code of theirs runs, only safetensors are read, and wrong values are one line of ours."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_mm.errors import InputError
from lora_mm.models.base_files import compute_fingerprint
from lora_mm.models.loading import load_base

RAN = "ran"
"""File that the stranger's code leaves behind."""


@pytest.fixture
def base(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, beside which every question is answered with yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * 9))
    folder = shutil.copytree(base_folder, tmp_path / "base")
    (folder / "evil.py").write_text(f"open({str(tmp_path / RAN)!r}, 'w')\nclass Evil: pass\n")
    return folder


def edit(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refusal(base: Path) -> str:
    with pytest.raises(InputError) as error:
        load_base(str(base))
    assert str(base) in str(error.value)
    assert not (base.parent / RAN).exists()
    return str(error.value)


OWN_CODE = {
    "config": ("config.json", lambda c: c.update(model_type="evil", auto_map={"AutoConfig": "evil.Evil"})),
    "processor": (
        "processor_config.json",
        lambda c: c.update(processor_class="Evil", auto_map={"AutoProcessor": "evil.Evil"}),
    ),
    "image processor": (
        "processor_config.json",
        lambda c: c["image_processor"].update(
            image_processor_type="Evil", auto_map={"AutoImageProcessor": "evil.Evil"}
        ),
    ),
}


@pytest.mark.parametrize("kind", OWN_CODE)
def test_a_bases_own_code_is_refused_without_a_question(base: Path, kind: str) -> None:
    name, change = OWN_CODE[kind]
    edit(base / name, change)
    assert "needs Python code of its own, which lora-mm never runs" in refusal(base)


def test_code_beside_a_type_that_transformers_knows_is_ignored(base: Path) -> None:
    edit(base / "config.json", lambda c: c.update(auto_map={"AutoModelForImageTextToText": "evil.Evil"}))
    edit(base / "tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}))
    load_base(str(base))
    assert not (base.parent / RAN).exists()


@pytest.mark.parametrize("weights", [True, False])
def test_an_attention_that_is_code_on_the_hub_is_refused(base: Path, weights: bool) -> None:
    """Transformers downloads and runs it, where the package `kernels` is installed."""
    with pytest.raises(InputError, match=r"'some/kernel@main:fn' for .* names code on the Hub"):
        load_base(str(base), attention="some/kernel@main:fn", weights=weights)
    edit(base / "config.json", lambda c: c.update(attn_implementation="some/kernel"))
    with pytest.raises(InputError, match=r"'some/kernel' for .* names code on the Hub"):
        load_base(str(base), weights=weights)
    load_base(str(base), attention="sdpa", weights=weights)


def test_a_pickle_is_not_read(base: Path) -> None:
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert "it has no weights in safetensors" in refusal(base)


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/x.safetensors", "pytorch_model.bin", 3])
def test_an_index_names_safetensors_of_its_folder_only(base: Path, shard: object) -> None:
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": shard}}))
    assert f"{str(shard)!r} is not a safetensors file of the same folder" in refusal(base)
    index.write_text("[]")
    assert "names no files of weights" in refusal(base)


def test_a_base_in_the_hubs_cache_is_named_by_its_commit(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repo = "a" * 40, tmp_path / "models--some--model"
    shutil.copytree(base_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base = load_base("some/model")
    assert (base.revision, base.fingerprint) == (commit, compute_fingerprint(base_folder))


def test_a_base_with_an_adapter_in_it_is_refused(base: Path) -> None:
    """Transformers would put the adapter on the base without a word."""
    (base / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    assert "holds an adapter (adapter_config.json)" in refusal(base)


def test_weights_that_do_not_fit_the_config_are_named_with_both_shapes(base: Path) -> None:
    edit(base / "config.json", lambda c: c["text_config"].update(intermediate_size=64))
    assert "down_proj.weight is (48, 96), its config says (48, 64)" in refusal(base)


def test_tensors_that_the_model_does_not_use_are_told(base: Path) -> None:
    edit(base / "config.json", lambda c: c["text_config"].update(num_hidden_layers=1))
    with pytest.warns(UserWarning, match=r"9 tensors are not used, such as model.language_model.layers.1"):
        load_base(str(base))


WRONG_VALUES: dict[str, Any] = {
    "text_config": 5,
    "vision_config": "x",
    "model_type": [],
    "dtype": "x",
    "auto_map": 3,
    "quantization_config": 3,
    "vision_feature_layer": {},
    "projector_hidden_act": 3,
}


@pytest.mark.parametrize("key", WRONG_VALUES)
def test_a_wrong_value_in_the_config_is_one_line(base: Path, key: str) -> None:
    edit(base / "config.json", lambda c: c.update({key: WRONG_VALUES[key]}))
    assert len(refusal(base).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "a"),
        ("hidden_size", -1),
        ("num_attention_heads", 0),
        ("hidden_act", "zz"),
        ("rope_parameters", {"rope_type": "zz"}),
        ("model_type", "zz"),
    ],
)
def test_a_wrong_value_in_the_language_models_config_is_one_line(base: Path, key: str, value: object) -> None:
    edit(base / "config.json", lambda c: c["text_config"].update({key: value}))
    assert len(refusal(base).splitlines()) == 1
    with pytest.raises(InputError):
        load_base(str(base), weights=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "null"),
        ("config.json", "[" * 100_000),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("processor_config.json", '{"image_processor": 3}'),
        ("generation_config.json", "[]"),
    ],
)
def test_a_file_of_another_form_is_one_line(base: Path, name: str, text: str) -> None:
    (base / name).write_text(text)
    assert len(refusal(base).splitlines()) == 1
