"""Scores answers that are yes or no: POPE's confusion table and MME's pairs. Knows no other answers."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from lora_mm.data.example import Example, ImageCell, ImageSource
from lora_mm.evaluation.answers import Answer, list_references
from lora_mm.evaluation.reading import read_yes_no
from lora_mm.evaluation.score import (
    Figure,
    Measure,
    Tally,
    compute_wilson_interval,
)


def match_yes_no(example: Example, prediction: str) -> float | None:
    """Return 1 if the prediction says yes or no as the reference does, else 0; None if it says neither.

    Args:
        example: the question with its reference.
        prediction: the answer.
    """
    predicted = read_yes_no(prediction)
    return None if predicted is None else float(predicted == read_yes_no(list_references(example)[0]))


def find_yes_no_fault(example: Example) -> str | None:
    """Describe why an example cannot be scored by yes and no; None if it can."""
    references = {read_yes_no(text) for text in list_references(example)}
    return None if len(references) == 1 and None not in references else "its answer is neither yes nor no"


def compute_confusion(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """Compute POPE's figures (Li et al. 2023), with yes as the positive class.

    An answer that could not be parsed is wrong, but not a false positive.

    Args:
        examples: the questions.
        answers: one for each example, in the same order.

    Returns:
        Column → figure: accuracy, precision, recall, F1 and yes share.
    """
    outcomes = [
        (read_yes_no(list_references(example)[0]), read_yes_no(answer.prediction))
        for example, answer in zip(examples, answers, strict=True)
    ]
    true_positives, false_positives = outcomes.count((True, True)), outcomes.count((False, True))
    false_negatives = sum(truth is True for truth, _ in outcomes) - true_positives
    true_negatives, total = outcomes.count((False, False)), len(outcomes)
    errors = false_positives + false_negatives
    return {
        "accuracy": Tally(true_positives + true_negatives, total),
        "precision": _compute_share(true_positives, true_positives + false_positives, total),
        "recall": _compute_share(true_positives, true_positives + false_negatives, total),
        "F1": _compute_f1(true_positives, errors, total),
        "yes share": _compute_share(true_positives + false_positives, total, total),
    }


def _compute_share(part: int, whole: int, questions: int) -> Measure:
    """Return ``part`` of ``whole`` in percent. It is not a :class:`Tally`, because ``whole`` depends on the answers."""
    if not whole:
        return Measure(None, questions)
    return Measure(100 * part / whole, questions, compute_wilson_interval(part, whole))


def _compute_f1(true_positives: int, errors: int, questions: int) -> Measure:
    """Compute F1 in percent.

    It rises with the share of true positives among these and the errors, and so do the ends of that share's interval.
    """
    share = _compute_share(true_positives, true_positives + errors, questions)
    if share.value is None or share.interval is None:
        return share
    value, low, high = (200 * percent / (100 + percent) for percent in (share.value, *share.interval))
    return Measure(value, questions, (low, high))


def compute_pairs(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """Compute MME's figures (Fu et al. 2023).

    Args:
        examples: the questions, two for each picture.
        answers: one for each example, in the same order.

    Returns:
        Column → figure: ``accuracy`` of single questions; ``accuracy+``, the share of pictures with both questions
        right; and ``score``, the sum of the two, at most 200.
    """
    pairs: dict[str, list[float]] = {}
    for example, answer in zip(examples, answers, strict=True):
        pairs.setdefault(_identify_pictures(example.pictures), []).append(answer.points)
    single = Tally(sum(answer.points for answer in answers), len(answers))
    both = Tally(sum(all(points) for points in pairs.values()), len(pairs))
    score = None if single.accuracy is None or both.accuracy is None else single.accuracy + both.accuracy
    return {"score": Measure(score, len(answers)), "accuracy": single, "accuracy+": both}


def find_pair_fault(example: Example) -> str | None:
    """Describe why an example cannot be one of a pair; None if it can."""
    return find_yes_no_fault(example) if example.pictures else "has no picture to pair questions by"


def find_uneven_pairs(examples: Sequence[Example]) -> list[str]:
    """Describe how many pictures do not have two questions; empty if all do."""
    counts = Counter(_identify_pictures(example.pictures) for example in examples)
    uneven = sum(count != 2 for count in counts.values())
    if not uneven:
        return []
    return [
        f"Every picture needs two questions, but {uneven:,} of {len(counts):,} pictures have another number; "
        "use a whole split that keeps pairs together, or --set evaluation.metric=yes_no."
    ]


def _identify_pictures(pictures: Sequence[ImageSource]) -> str:
    """Return the same key for the same pictures, whether they are files or bytes."""
    return " ".join(
        hashlib.sha256(source if isinstance(source, bytes) else source.read()).hexdigest()
        if isinstance(source, bytes | ImageCell)
        else str(source.resolve())
        for source in pictures
    )
