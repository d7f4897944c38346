"""Computes accuracy: of all answers, and of those with and without pictures. Knows credits, not metrics."""

import math
import statistics
from collections.abc import Callable, Sequence

from lora_mm.data.example import Example
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.score import Figure, Measure, Tally, compute_wilson_interval


def compute_accuracy(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """Compute the accuracy for answers that are right or wrong.

    Args:
        examples: the questions.
        answers: one for each example, in the same order.

    Returns:
        Column → accuracy: ``accuracy``; also ``image`` and ``text`` if only some examples have pictures.
    """
    return _split_by_modality(
        examples, [answer.points for answer in answers], lambda points: Tally(sum(points), len(points))
    )


def compute_mean_credit(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """Compute the mean credit for answers that earn partial credit.

    Args:
        examples: the questions.
        answers: one for each example, in the same order.

    Returns:
        Column → mean credit; columns as for :func:`compute_accuracy`.
    """
    return _split_by_modality(examples, [answer.points for answer in answers], _average)


def compute_chance_accuracy(examples: Sequence[Example]) -> dict[str, Figure]:
    """Compute the expected accuracy of a random choice among the candidates."""
    chances = [1 / len(example.candidates) for example in examples]
    return _split_by_modality(
        examples, chances, lambda points: Tally(math.fsum(points), len(points), is_expectation=True)
    )


def _split_by_modality(
    examples: Sequence[Example], points: Sequence[float], summarize: Callable[[list[float]], Figure]
) -> dict[str, Figure]:
    columns = {"accuracy": summarize(list(points))}
    pictured = [bool(example.pictures) for example in examples]
    if len(set(pictured)) > 1:
        for name, has_picture in (("image", True), ("text", False)):
            columns[name] = summarize(
                [value for value, pictures in zip(points, pictured, strict=True) if pictures is has_picture]
            )
    return columns


def _average(points: list[float]) -> Measure:
    if not points:
        return Measure(None, 0)
    return Measure(100 * statistics.fmean(points), len(points), compute_wilson_interval(math.fsum(points), len(points)))
