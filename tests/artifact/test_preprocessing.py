"""What an adapter was trained on, compared with the base it is put on."""

import json
import shutil
from pathlib import Path

import pytest

from lora_mm.artifact.files import PREPROCESSING
from lora_mm.artifact.preprocessing import (
    check_mismatches,
    check_same_base,
    read_trained_base,
    read_trained_fit,
    write_preprocessing,
)
from lora_mm.errors import InputError
from lora_mm.models.loading import load_base
from tests.helpers import tiny


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """``preprocessing.json`` of the tiny base."""
    (tmp_path / "adapter").mkdir()
    write_preprocessing(tmp_path / "adapter", load_base(str(base_folder)))
    return tmp_path / "adapter"


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        check_mismatches(load_base(str(base)), folder, [])
    return str(error.value)


def change_template(base: Path) -> None:
    template = base / "chat_template.jinja"
    template.write_text(template.read_text().replace("ASSISTANT:", "BOT:"))


def test_the_same_base_under_another_name_passes(folder: Path, base_folder: Path, tmp_path: Path) -> None:
    check_mismatches(load_base(str(shutil.copytree(base_folder, tmp_path / "copy"))), folder, [])


def test_another_base_is_refused_by_name_and_fingerprint(folder: Path, tmp_path: Path, base_folder: Path) -> None:
    other = tiny.make_base(tmp_path / "other", seed=1)
    trained_on, advice = refusal(other, folder).splitlines()
    assert f"trained on base '{base_folder}'" in trained_on
    assert f"but this is base '{other}'" in trained_on
    assert "base.model=" in advice


def test_a_changed_chat_template_is_refused(folder: Path, base_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base")
    change_template(base)
    message = refusal(base, folder)
    assert "chat_template: trained with" in message
    assert "image: trained with" not in message


def test_a_changed_image_size_is_refused(folder: Path, base_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base")
    file = base / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["crop_size"] = {"height": 32, "width": 32}
    file.write_text(json.dumps(config))
    message = refusal(base, folder)
    assert '"crop_size": {"height": 16, "width": 16}' in message
    assert '"crop_size": {"height": 32, "width": 32}' in message


def test_an_accepted_mismatch_is_warned_of_and_others_are_refused(folder: Path, tmp_path: Path) -> None:
    place = tiny.make_base(tmp_path / "other", seed=1)
    change_template(place)
    other = load_base(str(place))
    with pytest.raises(InputError, match="chat_template: trained with") as error:
        check_mismatches(other, folder, ["base"])
    assert "--accept inputs" in str(error.value)
    with pytest.warns(UserWarning, match="Accepted") as warned:
        check_mismatches(other, folder, ["base", "inputs"])
    assert sum("Accepted." in str(item.message) for item in warned) == 2


def test_an_unknown_mismatch_is_refused(folder: Path, base_folder: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot accept 'bsae'\. Known: base, inputs\."):
        check_mismatches(load_base(str(base_folder)), folder, ["bsae"])  # type: ignore[list-item]


def test_pictures_fitted_otherwise_than_in_training_are_refused(base_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(base_folder))
    write_preprocessing(tmp_path, base, "pad")
    assert read_trained_fit(tmp_path) == "pad"
    check_mismatches(base, tmp_path, [], "pad")
    check_mismatches(base, tmp_path, [])
    with pytest.raises(InputError, match='pictures_fit: trained with "pad", now null'):
        check_mismatches(base, tmp_path, [], "processor")
    with pytest.raises(InputError, match='pictures_fit: trained with "pad", now "crop"'):
        check_mismatches(base, tmp_path, [], "crop")
    with pytest.warns(UserWarning, match="Accepted"):
        check_mismatches(base, tmp_path, ["inputs"], "crop")
    write_preprocessing(tmp_path, base)
    assert read_trained_fit(tmp_path) == "processor"
    with pytest.raises(InputError, match='pictures_fit: trained with null, now "pad"'):
        check_mismatches(base, tmp_path, [], "pad")


def test_an_unknown_fit_is_named(folder: Path) -> None:
    facts = json.loads((folder / PREPROCESSING).read_text())
    facts["inputs"]["pictures_fit"] = "fold"
    (folder / PREPROCESSING).write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"unknown pictures_fit 'fold'\. Known: processor, pad, squash, crop"):
        read_trained_fit(folder)


def test_adapters_of_two_bases_are_told_apart(folder: Path, base_folder: Path, tmp_path: Path) -> None:
    assert read_trained_base(folder)["name"] == str(base_folder)
    check_same_base([folder, folder])
    other = tmp_path / "of_another"
    other.mkdir()
    facts = json.loads((folder / PREPROCESSING).read_text())
    facts["base"] = {"name": "other/base", "fingerprint": "0"}
    (other / PREPROCESSING).write_text(json.dumps(facts))
    with pytest.raises(InputError, match=f"{folder} on '{base_folder}'; {other} on 'other/base'"):
        check_same_base([folder, other])
