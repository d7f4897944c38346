"""Accuracy by modality, and its intervals."""

import pytest

from lora_mm.evaluation.score import compute_wilson_interval
from tests.helpers.questions import make_question, score_predictions


def test_questions_with_and_without_pictures_have_their_own_columns_where_there_are_both() -> None:
    questions = [make_question("red", picture="a.png"), make_question("red"), make_question("blue")]
    score = score_predictions("exact", questions, ["red", "red", "red"])
    assert {name: (figure.value, figure.total) for name, figure in score.columns.items()} == {
        "accuracy": (pytest.approx(200 / 3), 3),
        "image": (100, 1),
        "text": (50, 2),
    }
    assert list(score_predictions("exact", questions[1:], ["red", "red"]).columns) == ["accuracy"]


def test_no_credit_at_all_is_no_certainty() -> None:
    questions = [make_question(*["red"] * 10, id=str(n)) for n in range(8)]
    figure = score_predictions("vqa", questions, ["blue"] * 8).columns["accuracy"]
    assert (figure.value, figure.interval) == (0, compute_wilson_interval(0, 8))
    assert figure.interval == (0, pytest.approx(32.44, abs=0.005))


def test_partial_credit_and_counts_have_wilsons_interval() -> None:
    questions = [make_question(*["red"] * 3, *["blue"] * 7, id=str(n)) for n in range(40)]
    predictions = ["red"] * 20 + ["blue"] * 10 + ["green"] * 10
    figure = score_predictions("vqa", questions, predictions).columns["accuracy"]
    assert figure.value == pytest.approx(100 * (20 * 0.9 + 10) / 40)
    low, high = figure.interval or (0, 0)
    assert low < figure.value < high
    exact = score_predictions("exact", questions, predictions).columns["accuracy"]
    assert exact.interval == compute_wilson_interval(30, 40)
