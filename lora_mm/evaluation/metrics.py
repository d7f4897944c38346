"""The table of metrics, and the choice of a metric that fits the data. Knows no model.

To add a metric, add a row to :data:`METRICS` and its name to ``evaluation.metric`` in ``recipe/sections.py``. Its
functions go into a module of their own, like :mod:`.captions`. ``tests/evaluation/test_metrics.py`` checks that every
row scores an example, that a right answer earns more than a wrong one, and that the recipe knows the name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_mm.data.example import Example
from lora_mm.errors import InputError, truncate_faults
from lora_mm.evaluation.accuracy import compute_accuracy, compute_chance_accuracy, compute_mean_credit
from lora_mm.evaluation.answers import Answer, list_references
from lora_mm.evaluation.captions import compute_corpus_scores, find_caption_fault, score_caption
from lora_mm.evaluation.matching import (
    VQA_ANSWERS,
    find_annotator_fault,
    find_empty_reference,
    match_annotators,
    match_contained,
    match_exactly,
)
from lora_mm.evaluation.reading import normalize, read_choice
from lora_mm.evaluation.score import Figure, Score
from lora_mm.evaluation.yes_no import (
    compute_confusion,
    compute_pairs,
    find_pair_fault,
    find_uneven_pairs,
    find_yes_no_fault,
    match_yes_no,
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score.

    Attributes:
        title: title of the table of scores.
        credit: (example, prediction) → credit of a generated answer from 0 to 1, None if it cannot be parsed. None for
            metrics of choices: :func:`grade` compares the index of the choice.
        columns: (examples, answers) → the columns of the table; the first is the headline.
        find_fault: describes why an example cannot be scored; None if it can.
        find_common_faults: describes why examples cannot be scored together, even if each can be scored.
        can_be_unparsed: whether an answer can fail to be parsed; the table then counts such answers.
        hub_name: the Hub's name of the metric, for model cards; empty if the Hub has none.
        hub_columns: column → its own name on the Hub, where it is not ``hub_name``.
    """

    title: str
    credit: Callable[[Example, str], float | None] | None
    columns: Callable[[Sequence[Example], Sequence[Answer]], dict[str, Figure]]
    find_fault: Callable[[Example], str | None]
    find_common_faults: Callable[[Sequence[Example]], list[str]] = lambda examples: []
    can_be_unparsed: bool = False
    hub_name: str = ""
    hub_columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_choices(self) -> bool:
        """Whether an answer names one of the example's candidates."""
        return self.credit is None


def grade(metric: Metric, example: Example, prediction: str, choice: int | None = None) -> Answer:
    """Grade an answer.

    Args:
        metric: the metric.
        example: the question.
        prediction: the answer's text.
        choice: index of the candidate chosen by likelihood; None to parse it from ``prediction``.

    Returns:
        The answer with its credit.
    """
    if metric.credit is None:
        choice = read_choice(prediction, example.candidates) if choice is None else choice
        credit = None if choice is None else float(choice == example.answer)
    else:
        credit = metric.credit(example, prediction)
    return Answer(example.id, prediction, list_references(example), credit, choice)


def total_score(metric: Metric, examples: Sequence[Example], answers: Sequence[Answer]) -> Score:
    """Compute the columns of a metric's table.

    Args:
        metric: the metric that graded the answers.
        examples: the questions.
        answers: one for each example, in the same order.

    Returns:
        One row of the table.
    """
    unparsed = sum(answer.credit is None for answer in answers) if metric.can_be_unparsed else None
    return Score(metric.columns(examples, answers), unparsed)


def score_chance(metric: Metric, examples: Sequence[Example]) -> Score | None:
    """Compute the expected score of random choices.

    Args:
        metric: the metric.
        examples: the questions.

    Returns:
        One row of the table; None if the metric has no choices.
    """
    return Score(compute_chance_accuracy(examples)) if metric.has_choices else None


def name_metric_on_hub(name: str, column: str) -> str:
    """Return the Hub's name of what a column of scores measures, as ``accuracy`` or ``f1``.

    Args:
        name: a row of :data:`METRICS`.
        column: a column of its table.

    Returns:
        The Hub's name; ``name`` if the Hub has none.
    """
    metric = METRICS[name]
    return metric.hub_columns.get(column, metric.hub_name or name)


def choose_metric(name: str, examples: Sequence[Example], *, scienceqa: bool) -> str:
    """Return the name of the metric to score by, after checking that it can score the examples.

    ``auto`` chooses ``scienceqa`` for ScienceQA's problems; ``choice`` if every question has choices; ``yes_no`` if
    every answer is yes or no; ``vqa`` if every question has ten answers; otherwise ``exact``.

    Args:
        name: a row of :data:`METRICS`, or ``auto``.
        examples: the questions.
        scienceqa: whether the examples are ScienceQA's problems.

    Returns:
        A name in :data:`METRICS`.

    Raises:
        InputError: the metric cannot score the examples.
    """
    if name == "auto":
        return "scienceqa" if scienceqa else _detect_metric(examples)
    if name == "scienceqa":
        if not scienceqa:
            raise InputError(
                "evaluation.metric: scienceqa scores ScienceQA's problems, but this data is not ScienceQA; "
                "--set evaluation.metric=auto chooses a metric that fits."
            )
        return name
    metric = METRICS[name]
    faults = [f"{example.id}: {fault}" for example in examples if (fault := metric.find_fault(example))]
    faults = faults or metric.find_common_faults(examples)
    if faults:
        raise InputError(f"evaluation.metric: {name} cannot score this data.", *truncate_faults(faults, 5))
    return name


def _detect_metric(examples: Sequence[Example]) -> str:
    if not any(_find_choice_fault(example) for example in examples):
        return "choice"
    references = [list_references(example) for example in examples]
    if all({normalize(text) for text in texts} in ({"yes"}, {"no"}) for texts in references):
        return "yes_no"
    return "vqa" if all(len(texts) >= VQA_ANSWERS for texts in references) else "exact"


def _find_choice_fault(example: Example) -> str | None:
    if not example.candidates:
        return "has no choices"
    return None if example.answer is not None else "does not say which choice is right"


METRICS: Mapping[str, Metric] = {
    "scienceqa": Metric(
        "ScienceQA", None, compute_accuracy, _find_choice_fault, can_be_unparsed=True, hub_name="accuracy"
    ),
    "choice": Metric(
        "multiple choice", None, compute_accuracy, _find_choice_fault, can_be_unparsed=True, hub_name="accuracy"
    ),
    "exact": Metric("exact match", match_exactly, compute_accuracy, find_empty_reference, hub_name="exact_match"),
    "vqa": Metric("VQA accuracy", match_annotators, compute_mean_credit, find_annotator_fault),
    "contains": Metric("answer contained", match_contained, compute_accuracy, find_empty_reference),
    "yes_no": Metric(
        "yes or no",
        match_yes_no,
        compute_confusion,
        find_yes_no_fault,
        can_be_unparsed=True,
        hub_columns={"accuracy": "accuracy", "precision": "precision", "recall": "recall", "F1": "f1"},
    ),
    "mme": Metric(
        "MME pairs",
        match_yes_no,
        compute_pairs,
        find_pair_fault,
        find_uneven_pairs,
        can_be_unparsed=True,
        hub_columns={"accuracy": "accuracy"},
    ),
    "caption": Metric(
        "captions",
        score_caption,
        compute_corpus_scores,
        find_caption_fault,
        hub_columns={"chrF": "chrf", "BLEU": "bleu"},
    ),
}
"""Name in ``evaluation.metric`` → the metric. The row ``scienceqa`` grades single answers; the columns of ScienceQA's
score are the official ones of :mod:`.scienceqa`."""
