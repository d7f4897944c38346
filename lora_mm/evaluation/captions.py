"""Scores captions by sacrebleu: chrF and BLEU-4. Knows no other answers."""

from collections.abc import Sequence
from typing import Any

from lora_mm.data.example import Example
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer, list_references
from lora_mm.evaluation.matching import find_empty_reference
from lora_mm.evaluation.score import Figure, Interval, Measure, compute_percentile_interval

_RESAMPLES = 1000
"""Number of resamples of the captions for an interval."""


def score_caption(example: Example, prediction: str) -> float:
    """Return the chrF of one caption, from 0 to 1.

    Args:
        example: the question with its references.
        prediction: the caption.
    """
    return float(_import_sacrebleu().sentence_chrf(prediction, list(list_references(example))).score) / 100


def compute_corpus_scores(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """Compute chrF (Popović 2015) and BLEU-4 (Papineni et al. 2002) of all captions together.

    Args:
        examples: not used; the answers hold their references.
        answers: the captions, at least one.

    Returns:
        ``chrF`` and ``BLEU``, each with a bootstrapped interval if there are two captions or more.
    """
    sacrebleu = _import_sacrebleu()
    predictions = [answer.prediction for answer in answers]
    # sacrebleu reads references by column, with None for a caption that has fewer references than others.
    width = max(len(answer.references) for answer in answers)
    references = [
        [answer.references[n] if n < len(answer.references) else None for answer in answers] for n in range(width)
    ]
    figures: dict[str, Figure] = {}
    for name, metric in (("chrF", sacrebleu.CHRF()), ("BLEU", sacrebleu.BLEU(lowercase=True))):
        value = float(metric.corpus_score(predictions, references).score)
        interval = _bootstrap(metric, predictions, references) if len(answers) > 1 else None
        figures[name] = Measure(value, len(answers), interval)
    return figures


def _bootstrap(metric: Any, predictions: list[str], references: list[list[str | None]]) -> Interval:
    """Compute the 95 % percentile interval of a corpus score, from the counts that sacrebleu makes of each caption.

    sacrebleu's own interval raises TypeError if only some resamples score 0, and may lead out of 0 to 100.
    """
    import numpy as np

    counts = np.asarray(metric._extract_corpus_statistics(predictions, references))  # [captions, counts]
    rng, shares = np.random.default_rng(0), np.full(len(counts), 1 / len(counts))
    resamples = (rng.multinomial(len(counts), shares) @ counts for _ in range(_RESAMPLES))
    scores = [float(metric._compute_score_from_stats(total.tolist()).score) for total in resamples]
    return compute_percentile_interval(np.asarray(scores))


def find_caption_fault(example: Example) -> str | None:
    """Describe why an example cannot be scored as a caption; None if it can.

    Raises:
        InputError: sacrebleu is not installed.
    """
    _import_sacrebleu()
    return find_empty_reference(example)


def _import_sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise InputError(
            "evaluation.metric: caption needs sacrebleu; `pip install 'lora-mm[captions]'`, "
            "or --set evaluation.metric=exact."
        ) from None
    return sacrebleu
