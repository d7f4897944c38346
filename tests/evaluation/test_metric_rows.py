"""Every row of the metrics: recipes know its name, right answers score full marks, wrong ones do not."""

import typing
from pathlib import Path

import pytest

from lora_mm.data.example import Example
from lora_mm.evaluation.metrics import METRICS, judge, total_score
from lora_mm.evaluation.score import Figure, Tally
from lora_mm.recipe.sections import EvaluationSection

PICTURES = (Path("one.png"), Path("two.png"))
QUESTIONS = {
    "choices": [Example(str(n), "Which?", "red", (), ("red", "blue"), ("red",), 0) for n in range(4)],
    "open": [Example(str(n), "What?", "a red ball", (), (), ("a red ball",)) for n in range(4)],
    "pairs": [
        Example(f"{picture.name} {answer}", "Is it?", answer, (picture,), (), (answer,))
        for picture in PICTURES
        for answer in ("yes", "no")
    ],
}
"""Kinds of questions; a metric is asked the first kind that it can score."""


WRONG = "the drum"


def questions_for(name: str) -> list[Example]:
    """Questions that a metric finds no fault with."""
    metric = METRICS[name]
    for examples in QUESTIONS.values():
        if not any(map(metric.fault, examples)) and not metric.faults_together(examples):
            return examples
    raise AssertionError(f"No kind of question here fits the metric '{name}'; add one to QUESTIONS.")


def headline(name: str, said: list[str]) -> float:
    """The first figure of a metric's table, in percent."""
    metric, examples = METRICS[name], questions_for(name)
    answers = [judge(metric, example, text) for example, text in zip(examples, said, strict=True)]
    figure: Figure = next(iter(total_score(metric, examples, answers).columns.values()))
    value = figure.accuracy if isinstance(figure, Tally) else figure.value
    assert value is not None
    return float(value)


def test_recipes_know_every_metric() -> None:
    names = typing.get_args(EvaluationSection.model_fields["metric"].annotation)
    assert set(names) == {"auto", *METRICS}


@pytest.mark.parametrize("name", list(METRICS))
def test_right_answers_score_full_marks_and_wrong_ones_do_not(name: str) -> None:
    if name == "caption":
        pytest.importorskip("sacrebleu")
    examples = questions_for(name)
    right = [example.target for example in examples]
    assert all(judge(METRICS[name], example, text).worth == 1 for example, text in zip(examples, right, strict=True))
    assert headline(name, right) >= 100 > headline(name, [WRONG for _ in examples])
    assert headline(name, right) > headline(name, [*right[:-1], WRONG])
