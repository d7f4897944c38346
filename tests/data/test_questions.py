"""Questions to a model: those that are too long or cannot be asked are refused, or left out and counted; what a base's
template or processor raises is named by the example."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from lora_mm.data.collate import Collator
from lora_mm.data.data_split import DataSplit
from lora_mm.data.example import Example
from lora_mm.data.questions import fit_questions
from lora_mm.errors import InputError
from lora_mm.models.loading import load_base_config, load_base_processor
from lora_mm.recipe.data_section import DataSection
from tests.helpers.bases import make_family_base
from tests.helpers.tiny import TEMPLATE

SHORT = Example("short", "Which?", "The answer is A.", candidates=("The answer is A.", "The answer is B."))
LEARNT = Example("learnt", "Which one?", "so " * 60)
"""Short to ask, and long to learn."""
LONG = Example("long", "Which? " * 60, "A")
MANY = Example("many", "Which?", "A", candidates=("A", "so " * 60))
SPOILT = Example("spoilt", "What is </s> for?", "A")


@pytest.fixture
def processor(base_folder: Path) -> Any:
    return AutoProcessor.from_pretrained(base_folder)


def fit(processor: Any, *examples: Example, **settings: Any) -> DataSplit:
    split = DataSplit("test", examples, ("test: rows",), np.arange(len(examples)))
    section = DataSection(path="rows.jsonl", max_length=100, **settings)
    return fit_questions(split, Collator(processor, max_length=100), section)


def test_a_question_is_as_long_as_its_prompt_and_its_longest_candidate(processor: Any) -> None:
    assert list(fit(processor, SHORT, LEARNT).examples) == [SHORT, LEARNT]
    for too_long in (LONG, MANY):
        for overlong in ("error", "truncate"):
            told = rf"{too_long.id}: \d+ tokens to ask, more than data.max_length=100; raise it, or leave such"
            with pytest.raises(InputError, match=told):
                fit(processor, SHORT, too_long, overlong=overlong)


def test_questions_that_are_left_out_are_counted(processor: Any) -> None:
    split = fit(processor, SHORT, LONG, SPOILT, LEARNT, MANY, overlong="drop", faulty_rows="drop")
    assert list(split.examples) == [SHORT, LEARNT]
    assert list(split.hashes) == [0, 3]
    assert split.account_lines == (
        "test: rows",
        "test: questions left out of the score as too long: 2",
        f"test: questions left out of the score as faulty: 1, for example {split.faults[0]}",
    )
    assert "spoilt: the text contains '</s>'" in split.faults[0]


def test_no_question_left_is_an_error(processor: Any) -> None:
    with pytest.raises(InputError, match="No question of 'test' is left"):
        fit(processor, LONG, overlong="drop")


# --- templates and processors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ messages | join(3) + 3 }}", "TypeError"),
        ("{% for %}", "Expected"),
    ],
)
def test_a_template_that_fails_is_told_in_one_line(processor: Any, template: str, fault: str) -> None:
    collator = Collator(processor, max_length=100)
    processor.chat_template = TEMPLATE + template
    with pytest.raises(InputError) as caught:
        collator.render(SHORT)
    [line] = str(caught.value).splitlines()
    assert line.startswith("short: the base's chat template refuses the conversation: ")
    assert fault in line


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that Qwen's processor refuses: its sides differ by more than 200 times."""
    file = tmp_path_factory.mktemp("pictures") / "flat.png"
    Image.new("RGB", (9000, 20)).save(file)
    return file


def test_a_picture_that_the_processor_refuses_is_named(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_mm.data.example.MAX_ASPECT", 1000)  # our own limit is met first
    folder = str(make_family_base(tmp_path, "qwen2_vl"))
    collator = Collator(load_base_processor(folder, load_base_config(folder)), max_length=10_000)
    pictured = Example("flat", "Which?", "A", (flat,))
    for use in (collator.length, lambda item: collator([SHORT, item]), lambda item: collator.prompts([SHORT, item])):
        with pytest.raises(InputError) as caught:
            use(pictured)
        [line] = caught.value.faults
        assert line.startswith("flat: ")
        assert "the base's processor refuses this: ValueError: absolute aspect ratio must be smaller than 200" in line
