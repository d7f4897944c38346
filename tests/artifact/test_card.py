"""Model cards: metadata that stays whole whatever names hold, and text that fits the method."""

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st

from lora_mm.artifact.card import render_merged_card, render_model_card

FACTS: dict[str, Any] = {
    "name": "mine",
    "summary": "A summary.",
    "base": "some/base",
    "revision": "abc123",
    "data": "some/data",
    "methods": ["mma", "mma"],
    "stock": False,
    "trained": 1234567,
    "size": "5 KB",
    "scores": "| a |\n|---|\n| 1 |",
    "parts": {"vision": (1000, 10, 4000)},
    "folder": "mine",
}


def metadata(card: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match is not None
    found = yaml.safe_load(match[1])
    assert isinstance(found, dict)
    return found


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("stock", [True, False])
def test_names_the_base_and_how_to_load_it(stock: bool) -> None:
    card = render_model_card(**{**FACTS, "stock": stock, "methods": ["lora"] if stock else ["mma", "mma"]})
    assert metadata(card) == {
        "base_model": "some/base",
        "library_name": "peft",
        "license": "other",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora-mm", "multimodal", "lora" if stock else "mma"],
    }
    assert "at revision `abc123`" in card
    assert "on `some/data`" in card
    assert "1,234,567" in card
    assert "| vision | 1,000 | 10 |" in card
    assert ("import lora_mm " in card) is not stock


def test_a_base_in_a_folder_is_not_in_the_metadata() -> None:
    card = render_model_card(**{**FACTS, "base": "/some/folder", "revision": None})
    assert "base_model" not in metadata(card)
    assert "Adapter for `/some/folder`" in card


@example(base="b", name="", summary="", data="", licence="\x85", revision="")
@example(base="a/b", name="a\n---\n", summary="\n---\n", data="---", licence="mit\n---\nlicense: cc0", revision="1")
@example(base="\n---\n", name="\r---\r", summary="{{ name }}", data="{% raw %}", licence="---", revision="\n---\n")
@given(
    base=st.text(min_size=1), name=st.text(), summary=st.text(), data=st.text(), licence=st.text(), revision=st.text()
)
def test_odd_names_do_not_change_the_metadata(**odd: str) -> None:
    """Neither end the front matter early nor add a key to it; line breaks become spaces."""
    card = render_model_card(**{**FACTS, **odd}, figures={"AVG": 1.0})
    found = metadata(card)
    assert found == ModelCard(card).data.to_dict()
    assert found["license"] == one_line(odd["licence"])
    assert found.get("base_model") == (one_line(odd["base"]) if odd["revision"] else None)
    assert found["tags"] == ["lora-mm", "multimodal", "mma"]
    assert set(found) <= {"base_model", "library_name", "license", "pipeline_tag", "tags", "model-index"}


def test_odd_names_do_not_change_the_metadata_of_a_merge() -> None:
    card = render_merged_card(
        name="a\n---\nb",
        base="x/y\n---",
        revision="1",
        adapters=["one\n---\nlicense: cc0"],
        modality="image",
        dtype=None,
        probes="rows of\n---\n",
        drifts=["image: equal"],
        licence="mit\n---\nlicense: cc0",
    )
    assert metadata(card) == {
        "base_model": "x/y ---",
        "library_name": "peft",
        "license": "mit --- license: cc0",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora-mm"],
    }
    assert "with `one --- license: cc0` for image samples, as a stock PEFT LoRA" in card


def test_measured_figures_are_metadata_that_the_hub_reads() -> None:
    card = render_model_card(**FACTS, metrics={"F1": "f1"}, split="test", figures={"AVG": 91.234, "F1": 88.0})
    results = [
        (result.metric_name, result.metric_type, result.metric_value) for result in ModelCard(card).data.eval_results
    ]
    assert results == [("AVG", "accuracy", 91.23), ("F1", "f1", 88.0)]
    assert {(result.dataset_name, result.dataset_split) for result in ModelCard(card).data.eval_results} == {
        ("some/data", "test")
    }
    assert "model-index" not in metadata(render_model_card(**FACTS))


def test_says_how_to_merge_or_why_it_cannot_be_merged() -> None:
    routed = render_model_card(**FACTS)
    assert "lora-mm merge mine --output merged-image --modality image\n" in routed
    assert "lora-mm merge mine --output merged-text --modality text\n" in routed
    plain = render_model_card(**{**FACTS, "methods": ["lora"]})
    assert "lora-mm merge mine --output merged\n" in plain
    assert "--modality" not in plain
    several = render_model_card(**{**FACTS, "methods": ["mma", "crop_lora"]})
    assert "It cannot be merged: crop_lora" in several
    assert "lora-mm merge" not in several


def test_a_licence_is_named_or_said_to_be_missing() -> None:
    assert "No licence was named" in render_model_card(**FACTS)
    card = render_model_card(**FACTS, licence="apache-2.0")
    assert metadata(card)["license"] == "apache-2.0"
    assert "apache-2.0; the licences of its base" in card


def test_says_what_was_done_to_pictures() -> None:
    card = render_model_card(**FACTS, pictures="cropped to the central square")
    assert "pictures were cropped to the central square before the base's processor" in card
    assert 'lora_mm.load_processor(base, "mine")' in card
    assert "load_processor" not in render_model_card(**FACTS)
