"""Questions to a model and the score of its answers, by the metric that a recipe names.

Knows recipes, data and models; knows nothing of how an adapter is trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lora_mm.adapters.routing_map import RoutingMap, measure_routing
from lora_mm.data.collate import Collator, Subset, split_into_batches
from lora_mm.data.example import Example
from lora_mm.data.scienceqa import Problem
from lora_mm.errors import InputError
from lora_mm.evaluation import scienceqa as official
from lora_mm.evaluation.answers import Answer, save_answers
from lora_mm.evaluation.metrics import METRICS, choose_metric, judge, list_references, score_chance, total_score
from lora_mm.evaluation.predict import generate_answers, score_candidates
from lora_mm.evaluation.score import Score
from lora_mm.out_of_memory import explain_out_of_memory
from lora_mm.recipe.sections import Recipe

Watch = Callable[[str, int], Callable[[int], None]]
"""Told a label and a total, gives a function to call with every number just done (a progress bar, or nothing)."""

_FOLLOWED, _FOLLOWED_AT_ONCE = 32, 8
"""Examples with and without pictures whose tokens are followed through an adapter's routers."""


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """A model's answers to a split.

    Attributes:
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        score: the row of its table.
        answers: one a question, in the order of the split.
        written: whether the model wrote them; else they were taken by likelihood.
    """

    metric: str
    score: Score
    answers: tuple[Answer, ...]
    written: bool

    @property
    def predictions(self) -> dict[str, int | None]:
        """Problem id → index of the choice; None where a written answer names none."""
        return {answer.id: answer.choice for answer in self.answers}

    @property
    def outputs(self) -> dict[str, str] | None:
        """Problem id → what was written; None where answers were taken by likelihood."""
        return {answer.id: answer.prediction for answer in self.answers} if self.written else None

    def write(self, file: Path) -> None:
        """As JSON lines into ``file``; a name that ends in ``.json`` takes ScienceQA's official results format."""
        if file.suffix == ".json":
            official.write_results(file, self.predictions, outputs=self.outputs)
        else:
            save_answers(file, self.answers)


def ignore_progress(label: str, total: int) -> Callable[[int], None]:
    """A :data:`Watch` that shows nothing."""
    return lambda done: None


def score_model(
    model: nn.Module,
    collator: Collator,
    recipe: Recipe,
    examples: Sequence[Example],
    advance: Callable[[int], None],
    *,
    problems: Sequence[Problem] | None = None,
) -> ScoredAnswers:
    """Ask ``model`` every example, and score the answers, as ``recipe.evaluation`` says.

    Args:
        problems: what the examples were made of, where that is ScienceQA.

    Raises:
        InputError: for examples that the metric or the way of answering does not fit.
    """
    section = recipe.evaluation
    metric, by_likelihood = choose_scoring(recipe, examples, scienceqa=problems is not None)
    # Longest first: what memory is needed is needed at once, and neighbours pad each other little.
    order = sorted(range(len(examples)), key=lambda index: -sum(collator.length(examples[index])))
    ordered = Subset(examples, order)
    size = section.per_device_eval_batch_size
    if by_likelihood:
        mean = section.likelihood == "mean"
        with explain_out_of_memory():
            rows = score_candidates(model, collator, ordered, batch_size=size, mean=mean, advance=advance)
        chosen = [row.index(max(row)) for row in rows]
        said = {n: (examples[n].candidates[choice], choice) for n, choice in zip(order, chosen, strict=True)}
        answers = [judge(METRICS[metric], example, *said[n]) for n, example in enumerate(examples)]
    else:
        tokens = section.max_new_tokens
        with explain_out_of_memory():
            texts = generate_answers(model, collator, ordered, batch_size=size, max_new_tokens=tokens, advance=advance)
        written = dict(zip(order, texts, strict=True))
        if metric == "scienceqa" and problems is not None:
            answers = [_read_officially(recipe, problems[n], item, written[n]) for n, item in enumerate(examples)]
        else:
            answers = [judge(METRICS[metric], example, written[n]) for n, example in enumerate(examples)]
    return ScoredAnswers(metric, score_answers(metric, examples, answers, problems), tuple(answers), not by_likelihood)


def score_answers(
    metric: str, examples: Sequence[Example], answers: Sequence[Answer], problems: Sequence[Problem] | None
) -> Score:
    """The row of the metric's table; ScienceQA's problems have their official columns."""
    if metric == "scienceqa" and problems is not None:
        return official.score_problems(problems, {answer.id: answer.choice for answer in answers})
    return total_score(METRICS[metric], examples, answers)


def score_by_chance(metric: str, examples: Sequence[Example], problems: Sequence[Problem] | None) -> dict[str, Score]:
    """The row that any other should beat: what choosing at random scores; none where nobody chooses."""
    if metric == "scienceqa" and problems is not None:
        return {"random choice": official.score_random_choice(problems)}
    score = score_chance(METRICS[metric], examples)
    return {"random choice": score} if score else {}


def format_title(metric: str, split: str) -> str:
    """What a table of these scores is of."""
    if metric == "scienceqa":
        return f"ScienceQA {split}, accuracy in %"
    return f"{METRICS[metric].title[0].upper()}{METRICS[metric].title[1:]} on {split}, in %"


def choose_scoring(recipe: Recipe, examples: Sequence[Example], *, scienceqa: bool) -> tuple[str, bool]:
    """The metric's name, and whether candidates are compared (else the model writes), as ``recipe.evaluation`` says.

    Raises:
        InputError: for examples that the metric or the way of answering does not fit.
    """
    metric = choose_metric(recipe.evaluation.metric, examples, scienceqa=scienceqa)
    if recipe.evaluation.answer == "auto":
        return metric, METRICS[metric].choice
    by_likelihood = recipe.evaluation.answer == "likelihood"
    without = [example.id for example in examples if not example.candidates]
    if by_likelihood and without:
        raise InputError(
            f"evaluation.answer: likelihood compares choices, and {len(without):,} of {len(examples):,} questions have "
            f"none, such as {without[0]}; --set evaluation.answer=generate has the model write."
        )
    return metric, by_likelihood


def _read_officially(recipe: Recipe, problem: Problem, example: Example, text: str) -> Answer:
    """A written answer to a ScienceQA problem, by the official pattern or by the choice's own words."""
    parse = official.parse_choice if recipe.data.format == "QCM-T" else official.parse_answer
    choice = parse(text, problem.choices)
    worth = None if choice is None else float(choice == problem.answer)
    return Answer(problem.id, text, list_references(example), worth, choice)


def sample_routing(model: nn.Module, collator: Collator, examples: Sequence[Example]) -> list[RoutingMap]:
    """Where the adapter sends the tokens of some of ``examples``, with and without pictures apart."""
    asked = {}
    for name, pictured in (("text", False), ("image", True)):
        chosen = [example for example in examples if bool(example.pictures) is pictured][:_FOLLOWED]
        if chosen:
            asked[name] = [collator.prompts(chunk) for chunk in split_into_batches(chosen, _FOLLOWED_AT_ONCE)]
    return measure_routing(model, asked)
