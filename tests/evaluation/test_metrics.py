"""Every row of the table of metrics scores, is known to the recipe, and refuses what it cannot score."""

import importlib.util
from typing import get_args

import pytest

from lora_mm.data.example import Example
from lora_mm.errors import InputError
from lora_mm.evaluation.metrics import METRICS, VQA_ANSWERS, choose_metric, grade, name_metric_on_hub, score_chance
from lora_mm.recipe.sections import EvaluationSection
from tests.helpers.questions import compute_credit, make_question, score_predictions

# A metric → questions that it scores, right predictions, wrong predictions. A new metric needs a row here.
QUESTIONS = {
    "scienceqa": ([make_question("red", choices=("red", "blue"))], ["red"], ["blue"]),
    "choice": ([make_question("red", choices=("red", "blue"))], ["red"], ["blue"]),
    "exact": ([make_question("red")], ["Red."], ["blue"]),
    "vqa": ([make_question(*["red"] * VQA_ANSWERS)], ["red"], ["blue"]),
    "contains": ([make_question("red")], ["It is red."], ["It is blue."]),
    "yes_no": ([make_question("yes"), make_question("no")], ["yes", "no"], ["no", "yes"]),
    "mme": (
        [make_question("yes", picture="a.png"), make_question("no", picture="a.png")],
        ["yes", "no"],
        ["no", "yes"],
    ),
    "caption": ([make_question("a red ball")], ["a red ball"], ["two dogs"]),
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_tells_right_from_wrong(name: str) -> None:
    if name == "caption" and importlib.util.find_spec("sacrebleu") is None:
        pytest.skip("sacrebleu is not installed")
    questions, right, wrong = QUESTIONS[name]
    assert choose_metric(name, questions, scienceqa=name == "scienceqa") == name
    assert all(compute_credit(name, *pair) == 1 for pair in zip(questions, right, strict=True))
    best, worst = (score_predictions(name, questions, predictions) for predictions in (right, wrong))
    headline = best.headline_column
    assert worst.columns[headline].value == pytest.approx(0, abs=10)
    assert best.columns[headline].value in (pytest.approx(100), pytest.approx(200))
    assert best.columns[headline].total == len(questions)
    assert (best.unparsed == 0) if METRICS[name].can_be_unparsed else (best.unparsed is None)


def test_the_recipe_knows_every_metric() -> None:
    assert set(get_args(EvaluationSection.model_fields["metric"].annotation)) == {"auto", *METRICS}


@pytest.mark.parametrize(
    ("metric", "column", "hub_name"),
    [
        ("scienceqa", "NAT", "accuracy"),
        ("choice", "image", "accuracy"),
        ("exact", "accuracy", "exact_match"),
        ("yes_no", "F1", "f1"),
        ("caption", "chrF", "chrf"),
        ("caption", "BLEU", "bleu"),
        ("vqa", "accuracy", "vqa"),
    ],
)
def test_columns_have_the_names_that_the_hub_knows(metric: str, column: str, hub_name: str) -> None:
    assert name_metric_on_hub(metric, column) == hub_name


def test_a_choice_is_parsed_or_taken_as_given() -> None:
    question = make_question("blue", choices=("red", "blue"))
    assert compute_credit("choice", question, "Blue.") == 1
    assert compute_credit("choice", question, "red") == 0
    assert compute_credit("choice", question, "green") is None
    assert grade(METRICS["choice"], question, "red", 0).choice == 0


def test_chance_is_one_over_the_number_of_choices() -> None:
    questions = [make_question("a", choices=("a", "b")), make_question("a", choices=("a", "b", "c", "d"))]
    score = score_chance(METRICS["choice"], questions)
    assert score is not None
    assert score.columns["accuracy"].value == pytest.approx(37.5)
    assert score.columns["accuracy"].interval is None
    assert score_chance(METRICS["exact"], questions) is None


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        ([make_question("a", choices=("a", "b"))] * 2, "choice"),
        ([make_question("yes"), make_question("No.")], "yes_no"),
        ([make_question(*["red"] * VQA_ANSWERS)], "vqa"),
        ([make_question("red")], "exact"),
        ([make_question("a", choices=("a", "b")), make_question("red")], "exact"),
        ([make_question("yes"), make_question("red")], "exact"),
        ([make_question("yes"), make_question("No idea")], "exact"),
        ([make_question(*["red"] * VQA_ANSWERS), make_question("red")], "exact"),
    ],
)
def test_auto_chooses_by_the_data(questions: list[Example], expected: str) -> None:
    assert choose_metric("auto", questions, scienceqa=False) == expected
    assert choose_metric("auto", questions, scienceqa=True) == "scienceqa"


@pytest.mark.parametrize(
    ("name", "question", "message"),
    [
        ("choice", make_question("red", id="7"), "7: has no choices"),
        ("choice", Example("7", "What?", "a", candidates=("a", "b")), "7: does not say which choice is right"),
        ("yes_no", make_question("red", id="7"), "7: its answer is neither yes nor no"),
        ("yes_no", make_question("yes", "no", id="7"), "7: its answer is neither yes nor no"),
        ("vqa", make_question("a", "b", id="7"), "7: has 2 answers; VQA accuracy needs 1 answer, or 4 or more"),
        ("contains", make_question(" ", id="7"), "7: an answer is empty"),
        ("exact", make_question("red", " ", id="7"), "7: an answer is empty"),
        ("mme", make_question("yes", id="7"), "7: has no picture to pair questions by"),
        ("mme", make_question("yes", picture="a.png"), "1 of 1 pictures have another number"),
        ("scienceqa", make_question("red"), "scienceqa scores ScienceQA's problems"),
    ],
)
def test_the_error_names_what_a_metric_cannot_score(name: str, question: Example, message: str) -> None:
    with pytest.raises(InputError) as error:
        choose_metric(name, [question], scienceqa=False)
    assert message in str(error.value)
    assert f"evaluation.metric: {name}" in str(error.value)


def test_many_faults_are_truncated() -> None:
    with pytest.raises(InputError) as error:
        choose_metric("yes_no", [make_question("red", id=str(n)) for n in range(50)], scienceqa=False)
    assert len(error.value.faults) == 7
    assert "45 more" in error.value.faults[-1]
