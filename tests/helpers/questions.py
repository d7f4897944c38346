"""Questions without a data set, and their score by a metric."""

from collections.abc import Sequence
from pathlib import Path

from lora_mm.data.example import Example
from lora_mm.evaluation.metrics import METRICS, grade, total_score
from lora_mm.evaluation.score import Score


def make_question(
    *references: str, id: str = "1", picture: str | None = None, choices: tuple[str, ...] = ()
) -> Example:
    """A question with these references; the first one is the target, and the right one of the choices."""
    images = (Path(picture),) if picture else ()
    answer = choices.index(references[0]) if choices else None
    return Example(id, "What?", references[0], images, choices, references, answer)


def compute_credit(metric: str, question: Example, prediction: str) -> float | None:
    """The credit of one prediction."""
    return grade(METRICS[metric], question, prediction).credit


def score_predictions(metric: str, questions: Sequence[Example], predictions: Sequence[str]) -> Score:
    """The row of the metric's table."""
    row = METRICS[metric]
    answers = [grade(row, question, text) for question, text in zip(questions, predictions, strict=True)]
    return total_score(row, questions, answers)
