"""Scores a model on the questions of a split, as a recipe says. Does not know how the model was trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lora_mm.adapters.routing_map import RoutingMap, measure_routing
from lora_mm.data.collate import Collator, Subset, split_into_batches
from lora_mm.data.example import Example
from lora_mm.data.scienceqa import Problem
from lora_mm.errors import InputError
from lora_mm.evaluation import scienceqa as official
from lora_mm.evaluation.answers import Answer, list_references, save_answers
from lora_mm.evaluation.metrics import METRICS, choose_metric, grade, score_chance, total_score
from lora_mm.evaluation.predict import Advance, generate_answers, ignore_progress, score_candidates
from lora_mm.evaluation.score import Score
from lora_mm.out_of_memory import explain_out_of_memory
from lora_mm.recipe.sections import Recipe

_ROUTED_EXAMPLES, _ROUTED_BATCH = 32, 8
"""Number of examples with pictures, and without, to measure routing on; and the batch size."""


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """A model's answers to a split, and their score.

    Attributes:
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        score: row of the table of scores.
        answers: one for each question, in the order of the split.
        generated: whether the model generated the answers; otherwise candidates were compared by likelihood.
    """

    metric: str
    score: Score
    answers: tuple[Answer, ...]
    generated: bool

    @property
    def predictions(self) -> dict[str, int | None]:
        """Problem id → index of the choice; None if a generated answer names none."""
        return {answer.id: answer.choice for answer in self.answers}

    @property
    def outputs(self) -> dict[str, str] | None:
        """Problem id → generated text; None if candidates were compared by likelihood."""
        return {answer.id: answer.prediction for answer in self.answers} if self.generated else None

    def write(self, file: Path) -> None:
        """Write the answers as JSON lines, or to a ``.json`` file in ScienceQA's official results format.

        Raises:
            LoraMMError: the file cannot be written.
        """
        if file.suffix == ".json":
            official.write_results(file, self.predictions, outputs=self.outputs)
        else:
            save_answers(file, self.answers)


def score_model(
    model: nn.Module,
    collator: Collator,
    recipe: Recipe,
    examples: Sequence[Example],
    advance: Advance = ignore_progress,
    *,
    problems: Sequence[Problem] | None = None,
) -> ScoredAnswers:
    """Let a model answer every question, and score the answers as ``recipe.evaluation`` says.

    Args:
        model: the model, with or without an adapter.
        collator: the collator of the model's base.
        recipe: its ``evaluation`` section names the metric and how to answer.
        examples: the questions.
        advance: called after every batch.
        problems: ScienceQA problems of the examples, in the same order; None for other data.

    Returns:
        The answers in the order of ``examples``, and their score.

    Raises:
        InputError: ``evaluation.metric`` or ``evaluation.answer`` does not fit the examples.
        LoraMMError: the model's likelihoods are NaN, or memory runs out.
    """
    metric, by_likelihood = choose_scoring(recipe, examples, scienceqa=problems is not None)
    # Longest first: memory runs out at once or never, and batches need little padding.
    order = sorted(range(len(examples)), key=lambda index: -sum(collator.length(examples[index])))
    ordered = Subset(examples, order)
    predict = _compare_candidates if by_likelihood else _generate
    with explain_out_of_memory():
        predictions = dict(zip(order, predict(model, collator, recipe, ordered, advance), strict=True))
    answers = []
    for index, example in enumerate(examples):
        text, choice = predictions[index]
        if metric == "scienceqa" and problems is not None and not by_likelihood:
            answers.append(_parse_officially(recipe, problems[index], example, text))
        else:
            answers.append(grade(METRICS[metric], example, text, choice))
    return ScoredAnswers(metric, score_answers(metric, examples, answers, problems), tuple(answers), not by_likelihood)


def _compare_candidates(
    model: nn.Module, collator: Collator, recipe: Recipe, examples: Sequence[Example], advance: Advance
) -> list[tuple[str, int | None]]:
    """Return the text and the index of each example's likeliest candidate."""
    section = recipe.evaluation
    rows = score_candidates(
        model,
        collator,
        examples,
        batch_size=section.per_device_eval_batch_size,
        mean=section.likelihood == "mean",
        advance=advance,
    )
    choices = [row.index(max(row)) for row in rows]
    return [(example.candidates[choice], choice) for example, choice in zip(examples, choices, strict=True)]


def _generate(
    model: nn.Module, collator: Collator, recipe: Recipe, examples: Sequence[Example], advance: Advance
) -> list[tuple[str, int | None]]:
    """Return the generated answer to each example; its choice is not parsed yet."""
    section = recipe.evaluation
    texts = generate_answers(
        model,
        collator,
        examples,
        batch_size=section.per_device_eval_batch_size,
        max_new_tokens=section.max_new_tokens,
        advance=advance,
    )
    return [(text, None) for text in texts]


def _parse_officially(recipe: Recipe, problem: Problem, example: Example, text: str) -> Answer:
    """Grade a generated answer to a ScienceQA problem, read as the format of the data says."""
    choice = official.READERS[recipe.data.format](text, problem.choices)
    credit = None if choice is None else float(choice == problem.answer)
    return Answer(problem.id, text, list_references(example), credit, choice)


def score_answers(
    metric: str, examples: Sequence[Example], answers: Sequence[Answer], problems: Sequence[Problem] | None
) -> Score:
    """Compute the columns of graded answers; for ScienceQA the official columns.

    Args:
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        examples: the questions.
        answers: one for each example, in the same order.
        problems: ScienceQA problems of the examples, in the same order; None for other data.

    Returns:
        One row of the table.
    """
    if metric == "scienceqa" and problems is not None:
        return official.score_problems(problems, {answer.id: answer.choice for answer in answers})
    return total_score(METRICS[metric], examples, answers)


def score_by_chance(metric: str, examples: Sequence[Example], problems: Sequence[Problem] | None) -> dict[str, Score]:
    """Compute the expected score of random choices.

    Args:
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        examples: the questions.
        problems: ScienceQA problems of the examples, in the same order; None for other data.

    Returns:
        Name of the row → score; empty if the metric has no choices.
    """
    if metric == "scienceqa" and problems is not None:
        return {"random choice": official.score_random_choice(problems)}
    score = score_chance(METRICS[metric], examples)
    return {"random choice": score} if score else {}


def format_title(metric: str, split: str) -> str:
    """Write the title of a table of scores.

    Args:
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        split: name of the split.
    """
    if metric == "scienceqa":
        return f"ScienceQA {split}, accuracy in %"
    return f"{METRICS[metric].title[0].upper()}{METRICS[metric].title[1:]} on {split}, in %"


def choose_scoring(recipe: Recipe, examples: Sequence[Example], *, scienceqa: bool) -> tuple[str, bool]:
    """Choose the metric and how to answer, as ``recipe.evaluation`` says.

    Args:
        recipe: its ``evaluation`` section names both, or leaves them to the data.
        examples: the questions.
        scienceqa: whether they are ScienceQA's problems.

    Returns:
        Name of the metric, and whether candidates are compared by likelihood (otherwise answers are generated).

    Raises:
        InputError: ``evaluation.metric`` or ``evaluation.answer`` does not fit the examples.
    """
    metric = choose_metric(recipe.evaluation.metric, examples, scienceqa=scienceqa)
    if recipe.evaluation.answer == "auto":
        return metric, METRICS[metric].has_choices
    by_likelihood = recipe.evaluation.answer == "likelihood"
    without = [example.id for example in examples if not example.candidates]
    if by_likelihood and without:
        raise InputError(
            f"evaluation.answer: likelihood compares choices, but {len(without):,} of {len(examples):,} questions have "
            f"none, for example {without[0]}; --set evaluation.answer=generate lets the model generate its answers."
        )
    return metric, by_likelihood


def sample_routing(model: nn.Module, collator: Collator, examples: Sequence[Example]) -> list[RoutingMap]:
    """Measure where an adapter routes tokens, separately for examples with and without pictures.

    Args:
        model: the model with the adapter.
        collator: the collator of the model's base.
        examples: the questions; the first few of each kind are used.

    Returns:
        The routing of each routed layer of the adapter.
    """
    batches = {}
    for modality, has_pictures in (("text", False), ("image", True)):
        chosen = [example for example in examples if bool(example.pictures) is has_pictures][:_ROUTED_EXAMPLES]
        if chosen:
            batches[modality] = [collator.prompts(chunk) for chunk in split_into_batches(chosen, _ROUTED_BATCH)]
    return measure_routing(model, batches)
