"""Scores captions by sacrebleu: chrF and BLEU-4. Knows no other answers."""

import json
from collections.abc import Sequence
from typing import Any

from lora_mm.data.example import Example
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer, list_references
from lora_mm.evaluation.matching import find_empty_reference
from lora_mm.evaluation.score import Figure, Measure


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
    resamples = max(100, min(1000, 2_000_000 // len(answers)))  # sacrebleu holds all of them in memory: some 150 MB
    figures: dict[str, Figure] = {}
    for name, metric in (("chrF", sacrebleu.CHRF()), ("BLEU", sacrebleu.BLEU(lowercase=True))):
        result = metric.corpus_score(predictions, references, n_bootstrap=resamples if len(answers) > 1 else 1)
        # sacrebleu gives the interval only inside its formatted text.
        fields = json.loads(result.format(width=4, is_json=True, signature=str(metric.get_signature())))
        middle, half = fields.get("confidence_mean"), fields.get("confidence_var")
        interval = None if middle is None else (middle - half, middle + half)
        figures[name] = Measure(result.score, len(answers), interval)
    return figures


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
