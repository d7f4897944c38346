"""The model card: metadata that is YAML whatever people call things, and text that says what applies to the method."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lora_mm.artifact.card import render_model_card

FACTS: dict[str, Any] = {
    "name": "mine",
    "summary": "A summary.",
    "base": "some/base",
    "revision": "abc123",
    "version": "0.1.0",
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
    before, header, _ = card.split("---\n", 2)
    assert before == ""
    found = yaml.safe_load(header)
    assert isinstance(found, dict)
    return found


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


def test_a_base_that_is_a_folder_is_no_metadata() -> None:
    card = render_model_card(**{**FACTS, "base": "/some/folder", "revision": None})
    assert "base_model" not in metadata(card)
    assert "Adapter for `/some/folder`" in card


@example(base="b", name="", summary="", data="", licence="\x85", revision="")
@given(
    base=st.text(min_size=1), name=st.text(), summary=st.text(), data=st.text(), licence=st.text(), revision=st.text()
)
def test_odd_names_leave_the_metadata_whole(**odd: str) -> None:
    found = metadata(render_model_card(**{**FACTS, **odd}))
    assert found["license"] == odd["licence"]
    assert found.get("base_model") == (odd["base"] if odd["revision"] else None)
    assert found["tags"] == ["lora-mm", "multimodal", "mma"]


def test_says_how_it_merges_or_why_not() -> None:
    routed = render_model_card(**FACTS)
    assert "lora-mm merge mine --output merged-image --modality image\n" in routed
    assert "lora-mm merge mine --output merged-text --modality text\n" in routed
    plain = render_model_card(**{**FACTS, "methods": ["lora"]})
    assert "lora-mm merge mine --output merged\n" in plain
    assert "--modality" not in plain
    several = render_model_card(**{**FACTS, "methods": ["mma", "crop_lora"]})
    assert "It does not merge: crop_lora" in several
    assert "lora-mm merge" not in several


def test_a_licence_is_named_or_said_to_be_open() -> None:
    assert "named none" in render_model_card(**FACTS)
    card = render_model_card(**FACTS, licence="apache-2.0")
    assert metadata(card)["license"] == "apache-2.0"
    assert "apache-2.0; what its base" in card
