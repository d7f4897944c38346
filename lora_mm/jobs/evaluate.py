"""Scores an adapter or its frozen base, or compares two models on the same questions by a paired test.

Knows the order of the steps; other modules do them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import peft
from rich.console import Console
from torch import nn

from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.artifact.files import SCORES, read_json_object
from lora_mm.artifact.folder import load_adapter
from lora_mm.artifact.hub import locate_adapter
from lora_mm.artifact.preprocessing import Mismatch
from lora_mm.atomic import check_writable
from lora_mm.console import PlainConsole
from lora_mm.data.collate import Collator
from lora_mm.data.data_split import DataSplit
from lora_mm.data.example import Example
from lora_mm.data.questions import fit_questions
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import list_references
from lora_mm.evaluation.compare import Comparison, compare_answers
from lora_mm.evaluation.html.gallery import NamedAnswers
from lora_mm.evaluation.html.page import Page
from lora_mm.evaluation.score import Score
from lora_mm.evaluation.scoring import (
    ScoredAnswers,
    choose_scoring,
    format_title,
    sample_routing,
    score_by_chance,
    score_model,
)
from lora_mm.jobs.run_folder import ADAPTER_ROW, BASE_ROW
from lora_mm.jobs.session import (
    find_adapter_recipe,
    load_recipe_base,
    make_base_collator,
    make_collator_without_weights,
)
from lora_mm.models.memory import format_memory
from lora_mm.models.precision import check_quantization
from lora_mm.progress import Display
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe

COMPARE_BASE = "base"
"""Value of ``compare`` that means the frozen base."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model to score: an adapter, or the frozen base of a recipe.

    Attributes:
        name: name of its row in the score table.
        recipe: its recipe, which says what questions to answer, and in what form.
        adapter: the adapter's folder; None for the frozen base.
        origin: the Hub repository of the adapter; None for a local one.
        commit: commit of ``origin``; None for a local adapter.
    """

    name: str
    recipe: Recipe
    adapter: Path | None
    origin: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of ``evaluate``.

    Attributes:
        title: title of the score table.
        scores: name of the row → score.
        scored: name of the row → answers, for each contender.
        comparison: the first contender against the second; None if there is only one.
        account: one line that accounts for the rows of the split.
        examples: the questions.
        routing: where the first contender routes tokens; empty unless a report was written.
        contenders: the models that were scored, in the order of ``scored``; the first is the model to evaluate.
    """

    title: str
    scores: dict[str, Score]
    scored: dict[str, ScoredAnswers]
    comparison: Comparison | None
    account: str
    examples: Sequence[Example]
    routing: list[RoutingMap]
    contenders: tuple[Contender, ...]


def evaluate(
    adapter: str | Path,
    *,
    overrides: Iterable[str] = (),
    base_only: bool = False,
    compare: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    predictions: Path | None = None,
    report: Path | None = None,
    accept: Collection[Mismatch] = (),
    console: Console | None = None,
) -> Evaluation:
    """Score an adapter on its recipe's data, or compare two models on the same questions by a paired test.

    Each model answers the questions of its own recipe, in the form of its own recipe.

    Args:
        adapter: a folder, packed file or Hub id (see :func:`~lora_mm.artifact.hub.locate_adapter`).
        overrides: ``key=value`` settings for the recipes, as for ``--set``.
        base_only: score the adapter's frozen base instead of the adapter.
        compare: another adapter to score as well; ``base`` for the frozen base.
        split: split to score on; by default the recipe's ``data.eval_split``.
        limit: maximum number of questions, from the first; by default the recipe's ``data.eval_limit``.
        predictions: file for the first model's answers: JSON lines, or ScienceQA's official format if the name ends in
            ``.json``.
        report: file for an HTML report.
        accept: mismatches of base or inputs to warn about instead of refusing.
        console: console for progress; by default standard output.

    Returns:
        Scores and answers.

    Raises:
        InputError: an adapter, a recipe or data cannot be used, or two models have different questions or metrics;
            raised before any model is loaded.
        LoraMMError: a file cannot be written, or the GPU is out of memory.
    """
    contenders = _find_contenders(str(adapter), list(overrides), base_only, None if compare is None else str(compare))
    display = Display(PlainConsole() if console is None else console)
    _check_outputs(predictions, report)
    for contender in contenders:
        check_quantization(contender.recipe.base.quantization)
    splits = [_load_questions(contender.recipe, split, limit) for contender in contenders]
    metric = _choose_metric(contenders, splits)
    if predictions and predictions.suffix == ".json" and metric != "scienceqa":
        raise InputError(
            f"--predictions {predictions}: .json is ScienceQA's official format, but this data is not ScienceQA; "
            f"name the file {predictions.stem}.jsonl."
        )
    scored, routing = _score(contenders, splits, accept, display, with_routing=report is not None)
    if predictions:
        scored[contenders[0].name].write(predictions)
    comparison = None
    if len(scored) > 1:
        (first_name, first), (second_name, second) = scored.items()
        comparison = compare_answers((first_name, second_name), first.answers, second.answers)
    questions = splits[0]
    evaluation = Evaluation(
        title=format_title(metric, questions.name),
        scores=score_by_chance(metric, questions.examples, questions.problems)
        | {name: answers.score for name, answers in scored.items()},
        scored=scored,
        comparison=comparison,
        account=questions.account(),
        examples=questions.examples,
        routing=routing,
        contenders=tuple(contenders),
    )
    if report:
        make_page(evaluation).write(report)
    return evaluation


def _check_outputs(predictions: Path | None, report: Path | None) -> None:
    """Check that the files can be written, before a model answers for minutes or hours."""
    if predictions and report and predictions.absolute() == report.absolute():
        raise InputError(f"--predictions and --report both name {report}; name two files.")
    check_writable(*(file for file in (predictions, report) if file))


def _load_questions(recipe: Recipe, split: str | None, limit: int | None) -> DataSplit:
    questions = load_split(recipe, split or recipe.data.eval_split, limit or recipe.data.eval_limit)
    return fit_questions(questions, make_collator_without_weights(recipe), recipe.data)


def make_page(evaluation: Evaluation) -> Page:
    """Make the HTML report of an evaluation, with the training history if the adapter's folder has one."""
    first = evaluation.contenders[0]
    names = [contender.name for contender in evaluation.contenders]
    answers = [NamedAnswers(name, evaluation.scored[name].answers) for name in names]
    adapters = {contender.name: contender.adapter for contender in evaluation.contenders if contender.adapter}
    return Page(
        title=first.recipe.name,
        summary=first.recipe.summary,
        facts={
            "Base": first.recipe.base.model,
            **{name[0].upper() + name[1:]: folder.resolve().name for name, folder in adapters.items()},
            "Scored on": evaluation.account,
        },
        table=evaluation.title,
        scores=evaluation.scores,
        examples=evaluation.examples,
        answers=answers[0],
        baseline=answers[1] if len(answers) > 1 else None,
        comparison=evaluation.comparison,
        history=_load_history(first.adapter) if first.adapter else [],
        routing=evaluation.routing,
        recipe=first.recipe.to_yaml(),
    )


def _load_history(adapter: Path) -> list[dict[str, float]]:
    """Load the training log from an adapter folder; empty if it has none."""
    try:
        history = read_json_object(adapter / SCORES)["figures"]["history"]
    except (InputError, KeyError, TypeError):
        return []
    entries = history if isinstance(history, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("step"), int)]


# --- models to score -------------------------------------------------------------------------------------------------


def _find_contenders(adapter: str, overrides: Sequence[str], base_only: bool, compare: str | None) -> list[Contender]:
    """Find the models to score: the adapter or its frozen base, then the model to compare with.

    Raises:
        InputError: a folder is not an adapter, a recipe cannot be used, or both models are the same.
    """
    first = _find_contender(adapter, overrides)
    frozen = Contender(BASE_ROW, first.recipe, None)
    if compare == COMPARE_BASE and base_only:
        raise InputError("--base-only --compare base compares the frozen base with itself; leave out one of them.")
    if compare is None or compare == COMPARE_BASE:
        main = frozen if base_only else replace(first, name=ADAPTER_ROW)
        return [main] if compare is None else [main, frozen]
    second = _find_contender(compare, overrides)
    if base_only:
        return [frozen, second]
    assert first.adapter is not None
    assert second.adapter is not None
    if first.adapter.resolve() == second.adapter.resolve():
        raise InputError(f"--compare {compare}: the same adapter; name another one, or `base` for the frozen base.")
    if first.name == second.name:
        return [replace(first, name=adapter), replace(second, name=compare)]
    return [first, second]


def _find_contender(adapter: str, overrides: Sequence[str]) -> Contender:
    located = locate_adapter(adapter)
    recipe = load_recipe(find_adapter_recipe(located.folder), overrides)
    return Contender(located.name, recipe, located.folder, located.origin, located.commit)


def _choose_metric(contenders: Sequence[Contender], splits: Sequence[DataSplit]) -> str:
    """Choose the metric; raise InputError if it does not fit the questions, or if two models cannot be compared."""
    metrics = [
        choose_scoring(contender.recipe, split.examples, scienceqa=split.problems is not None)[0]
        for contender, split in zip(contenders, splits, strict=True)
    ]
    if len(contenders) > 1:
        _check_comparable(contenders, splits, metrics)
    return metrics[0]


def _check_comparable(contenders: Sequence[Contender], splits: Sequence[DataSplit], metrics: Sequence[str]) -> None:
    """Raise InputError unless two contenders have the same questions and the same metric."""
    first, second = contenders
    sizes = [len(split.examples) for split in splits]
    first_questions, second_questions = ({_identify_question(item) for item in split.examples} for split in splits)
    differing = first_questions ^ second_questions
    if differing:
        count, example = len({id for id, _ in differing}), min(id for id, _ in differing)
        raise InputError(
            f"The recipes of {first.name} and {second.name} have different questions: {count:,} of {sizes[0]:,} and "
            f"{sizes[1]:,} differ, for example {example}. Use the same data for both, for example "
            f"--set data.path={first.recipe.data.path}."
        )
    if metrics[0] != metrics[1]:
        raise InputError(
            f"The metric of {first.name} is {metrics[0]}, but that of {second.name} is {metrics[1]}; "
            f"use one metric for both: --set evaluation.metric={metrics[0]}."
        )


def _identify_question(example: Example) -> tuple[str, object]:
    """Return what two models' questions must share to be the same question, whatever their form."""
    return example.id, list_references(example) if example.answer is None else example.answer


# --- scoring ---------------------------------------------------------------------------------------------------------


def _score(
    contenders: Sequence[Contender],
    splits: Sequence[DataSplit],
    accept: Collection[Mismatch],
    display: Display,
    *,
    with_routing: bool,
) -> tuple[dict[str, ScoredAnswers], list[RoutingMap]]:
    """Score each contender; also measure the routing of the first if ``with_routing``."""
    scored: dict[str, ScoredAnswers] = {}
    routing: list[RoutingMap] = []
    models = _load_models(contenders, accept, display)
    for contender, split, (model, collator) in zip(contenders, splits, models, strict=True):
        advance = display.watch(contender.name, len(split.examples))
        scored[contender.name] = score_model(
            model, collator, contender.recipe, split.examples, advance, problems=split.problems
        )
        if with_routing and contender is contenders[0] and contender.adapter is not None:
            routing = sample_routing(model, collator, split.examples)
        del model, collator  # two bases may not fit in memory: free this one before loading the next
    return scored, routing


def _load_models(
    contenders: Sequence[Contender], accept: Collection[Mismatch], display: Display
) -> Iterator[tuple[nn.Module, Collator]]:
    """Yield each contender's model and collator in turn; an adapter and its frozen base share one loaded base."""
    base = collator = model = None
    for contender in contenders:
        if model is not None and contender.adapter is None and contender.recipe == contenders[0].recipe:
            assert collator is not None
            with cast(peft.PeftModel, model).disable_adapter():
                yield model, collator
            continue
        base = collator = model = None
        base = load_recipe_base(contender.recipe)
        collator = make_base_collator(contender.recipe, base)
        if contender.adapter is None:
            model = base.model
        else:
            recipe = contender.recipe
            model = load_adapter(
                base,
                contender.adapter,
                accept=accept,
                fit=recipe.data.pictures.fit,
                special_tokens=recipe.data.special_tokens,
                kernels=recipe.base.kernels,
            )
        origin = f"Adapter {contender.origin}.\n" if contender.origin else ""
        display.say(f"{origin}Base {base.name}: {format_memory(model)}.")
        yield model, collator
