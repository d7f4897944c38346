"""POPE's and MME's figures against their definitions, written out."""

import pytest

from lora_mm.data.example import Example
from lora_mm.evaluation.score import compute_wilson_interval
from tests.helpers.questions import make_question, score_predictions


def test_yes_and_no_give_popes_figures() -> None:
    truth = ["yes"] * 6 + ["no"] * 4
    predictions = ["Yes", "Yes, it is", "yes", "yes", "No", "perhaps", "yes", "no", "no", "No."]
    questions = [make_question(text, id=str(n)) for n, text in enumerate(truth)]
    score = score_predictions("yes_no", questions, predictions)
    figures = {name: figure.value for name, figure in score.columns.items()}
    # 4 true positives, 1 false positive, 2 false negatives (one of them unparsed), 3 true negatives
    precision, recall = 4 / 5, 4 / 6
    assert figures == {
        "accuracy": pytest.approx(70),
        "precision": pytest.approx(100 * precision),
        "recall": pytest.approx(100 * recall),
        "F1": pytest.approx(100 * 2 * precision * recall / (precision + recall)),
        "yes share": pytest.approx(50),
    }
    assert score.unparsed == 1
    assert score.columns["precision"].interval == compute_wilson_interval(4, 5)
    low, high = score.columns["F1"].interval or (0, 0)
    assert low < figures["F1"] < high  # type: ignore[operator]


def test_a_model_that_never_says_yes_has_no_precision() -> None:
    score = score_predictions("yes_no", [make_question("yes"), make_question("no")], ["no", "no"])
    assert score.columns["precision"].text == "–"
    assert score.columns["recall"].value == 0


def test_mme_counts_pictures_with_both_questions_right() -> None:
    questions = [
        make_question(text, id=f"{picture}{n}", picture=f"{picture}.png")
        for picture in "abc"
        for n, text in enumerate(("yes", "no"))
    ]
    score = score_predictions("mme", questions, ["yes", "no", "yes", "yes", "no", "yes"])
    assert {name: figure.value for name, figure in score.columns.items()} == {
        "score": pytest.approx(100 * 3 / 6 + 100 * 1 / 3),
        "accuracy": pytest.approx(50),
        "accuracy+": pytest.approx(100 / 3),
    }
    assert score.columns["accuracy+"].total == 3


def test_pictures_in_memory_are_paired_by_their_bytes() -> None:
    questions = [
        Example(str(n), "Is it?", answer, (bytes([n // 2]),), references=(answer,))
        for n, answer in enumerate(("yes", "no", "yes", "no"))
    ]
    assert score_predictions("mme", questions, ["yes", "no", "no", "no"]).columns["accuracy+"].total == 2
