"""Gives credit to a short answer by comparing it with its references. Knows one answer at a time."""

from lora_mm.data.example import Example
from lora_mm.evaluation.answers import list_references
from lora_mm.evaluation.reading import normalize, normalize_vqa

VQA_ANSWERS = 10
"""Number of answers to each question of VQAv2, TextVQA and VizWiz."""


def match_exactly(example: Example, prediction: str) -> float:
    """Return 1 if the prediction equals one of the references up to spelling (:func:`~.reading.normalize`), else 0.

    Args:
        example: the question with its references.
        prediction: the answer.
    """
    return float(normalize(prediction) in {normalize(text) for text in list_references(example)})


def match_contained(example: Example, prediction: str) -> float:
    """Return 1 if the prediction contains one of the references up to spelling, else 0.

    Args:
        example: the question with its references.
        prediction: the answer.
    """
    normalized = normalize(prediction)
    return float(any(normalize(text) in normalized for text in list_references(example)))


def match_annotators(example: Example, prediction: str) -> float:
    """Return the VQA accuracy (Antol et al. 2015) of a prediction.

    It is min(n / 3, 1), where n references agree with the prediction, averaged over every subset of the references
    that leaves one out. With a single reference it is 1 if they agree, else 0.

    Args:
        example: the question with its references.
        prediction: the answer.
    """
    references = [normalize_vqa(text) for text in list_references(example)]
    normalized = normalize_vqa(prediction)
    agreeing = sum(text == normalized for text in references)
    if len(references) == 1:
        return float(agreeing)
    total = agreeing * min((agreeing - 1) / 3, 1) + (len(references) - agreeing) * min(agreeing / 3, 1)
    return total / len(references)


def find_empty_reference(example: Example) -> str | None:
    """Describe why an example cannot be scored by its references; None if it can."""
    return None if all(normalize(text) for text in list_references(example)) else "an answer is empty"


def find_annotator_fault(example: Example) -> str | None:
    """Describe why an example cannot be scored by :func:`match_annotators`; None if it can."""
    count = len(list_references(example))
    if 1 < count < 4:  # no answer at all could earn full credit
        return f"has {count} answers; VQA accuracy needs 1 answer, or 4 or more"
    return find_empty_reference(example)
