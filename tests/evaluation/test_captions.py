"""Captions are scored by sacrebleu, or the error says what to install."""

import importlib.util

import pytest

from lora_mm.errors import InputError
from lora_mm.evaluation.metrics import choose_metric
from tests.helpers.questions import make_question, score_predictions

CAPTIONS = [
    make_question("a red ball on the grass", "a ball", id="1"),
    make_question("two dogs play in the snow", id="2"),
]


@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
def test_captions_are_scored_by_sacrebleu() -> None:
    perfect = score_predictions("caption", CAPTIONS, ["a red ball on the grass", "two dogs play in the snow"])
    assert perfect.columns["chrF"].value == pytest.approx(100)
    assert perfect.columns["BLEU"].value == pytest.approx(100)
    worse = score_predictions("caption", CAPTIONS, ["a red ball on a table", "three cats"])
    assert 0 < worse.columns["chrF"].value < 80  # type: ignore[operator]
    assert worse.columns["chrF"].interval is not None
    assert score_predictions("caption", CAPTIONS[:1], ["a ball"]).columns["chrF"].interval is None


@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
@pytest.mark.parametrize(
    "predictions", [("a red ball on the grass", ""), ("", ""), ("a", "2"), ("two dogs play", "dogs")]
)
def test_resamples_that_score_zero_count_too(predictions: tuple[str, str]) -> None:
    columns = score_predictions("caption", CAPTIONS, list(predictions)).columns
    for name in ("chrF", "BLEU"):
        value, interval = columns[name].value, columns[name].interval
        assert value is not None
        assert interval is not None
        assert 0 <= interval[0] <= value <= interval[1] <= 100.0001
    many = score_predictions("caption", CAPTIONS * 20, [*predictions] * 20).columns["chrF"].interval
    assert many is not None
    assert many[1] - many[0] <= interval[1] - interval[0] or predictions[0] != CAPTIONS[0].target


@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is not None, reason="sacrebleu is installed")
def test_without_sacrebleu_the_error_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r"needs sacrebleu; `pip install 'lora-mm\[captions\]'`"):
        choose_metric("caption", CAPTIONS, scienceqa=False)
