"""The verb ``evaluate``: one adapter or its frozen base scored, or two on the same questions with a paired test.

Knows the order of things; each thing is done elsewhere.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.artifact.files import SCORES
from lora_mm.artifact.folder import Mismatch, load_adapter
from lora_mm.artifact.hub import locate_adapter
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.splits import DataSplit, load_split
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import list_references
from lora_mm.evaluation.compare import Comparison, compare_answers
from lora_mm.evaluation.html.gallery import NamedAnswers
from lora_mm.evaluation.html.page import Page
from lora_mm.evaluation.score import Score
from lora_mm.evaluation.scoring import (
    ScoredAnswers,
    Watch,
    choose_scoring,
    format_title,
    sample_routing,
    score_by_chance,
    score_model,
)
from lora_mm.jobs.session import find_adapter_recipe, load_recipe_base, make_base_collator
from lora_mm.models.loading import check_quantization, format_memory
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe

FROZEN_BASE = "base"
"""What the frozen base is called where an adapter folder could stand."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
        title: of the table of scores.
        scores: its rows.
        scored: the answers of each model, by the name of its row; the first is the one that was asked for.
        comparison: the first against the second, where there are two.
        account: one line: what of the split was asked.
        examples: the questions.
        routing: where the first model's samples are routed; empty unless asked for.
    """

    title: str
    scores: dict[str, Score]
    scored: dict[str, ScoredAnswers]
    comparison: Comparison | None
    account: str
    examples: Sequence[Example]
    routing: list[RoutingMap]


@dataclass(frozen=True, slots=True)
class Contender:
    """A model to ask: an adapter with its recipe, or with None the frozen base of that recipe.

    Attributes:
        origin, commit: where on the Hub the adapter is from.
    """

    name: str
    recipe: Recipe
    adapter: Path | None
    origin: str | None = None
    commit: str | None = None


def evaluate(
    contenders: Sequence[Contender],
    *,
    split: str | None,
    limit: int | None,
    watch: Watch,
    routing: bool = False,
    predictions: Path | None = None,
    accept: Collection[Mismatch] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Score one model; or two on the same questions, with a paired test.

    Args:
        contenders: one or two. Each is asked its own recipe's questions in its own recipe's form.
        split: what to ask; the recipe's ``data.eval_split`` by default.
        limit: ask the first so many questions only; the recipe's ``data.eval_limit`` by default.
        routing: whether to look at the first model's routing too.
        predictions: where to write the first model's answers: as JSON lines; with a name that ends in ``.json`` in
            ScienceQA's official format.
        accept: mismatches of base or inputs that are warned of, not refused.
        say: told what was loaded.

    Raises:
        InputError: two that are asked other questions, or scored by other metrics; told before any model is loaded.
    """
    for contender in contenders:
        check_quantization(contender.recipe.base.quantization)
    asked = [
        load_split(one.recipe, split or one.recipe.data.eval_split, limit or one.recipe.data.eval_limit)
        for one in contenders
    ]
    metric = _metric_of_all(contenders, asked)
    if predictions and predictions.suffix == ".json" and metric != "scienceqa":
        raise InputError(
            f"--predictions {predictions}: .json is ScienceQA's official format, and these answers are none of its; "
            f"name it {predictions.stem}.jsonl."
        )
    scored: dict[str, ScoredAnswers] = {}
    maps: list[RoutingMap] = []
    for contender, own, (model, collator) in zip(contenders, asked, _models(contenders, accept, say), strict=True):
        advance = watch(contender.name, len(own.examples))
        scored[contender.name] = score_model(
            model, collator, contender.recipe, own.examples, advance, problems=own.problems
        )
        if routing and contender is contenders[0] and contender.adapter is not None:
            maps = sample_routing(model, collator, own.examples)
        del model, collator  # before the next is loaded: two bases may not fit
    if predictions:
        scored[contenders[0].name].write(predictions)
    comparison = None
    if len(scored) > 1:
        (one, first), (other, second) = scored.items()
        comparison = compare_answers((one, other), first.answers, second.answers)
    loaded = asked[0]
    scores = score_by_chance(metric, loaded.examples, loaded.problems)
    scores |= {name: found.score for name, found in scored.items()}
    title = format_title(metric, loaded.name)
    return Evaluation(title, scores, scored, comparison, loaded.account(), loaded.examples, maps)


def _models(
    contenders: Sequence[Contender], accept: Collection[Mismatch], say: Callable[[str], None]
) -> Iterator[tuple[nn.Module, Collator]]:
    """Each contender's model and collator, one after the other; a base that is loaded already is not loaded anew."""
    base = collator = model = None
    for contender in contenders:
        if model is not None and contender.adapter is None and contender.recipe == contenders[0].recipe:
            assert collator is not None
            with model.disable_adapter():
                yield model, collator
            continue
        base = collator = model = None
        base = load_recipe_base(contender.recipe)
        collator = make_base_collator(contender.recipe, base)
        model = base.model if contender.adapter is None else load_adapter(base, contender.adapter, accept=accept)
        if contender.origin:
            say(f"Adapter {contender.origin}.")
        say(f"Base {base.name}: {format_memory(model)}.")
        yield model, collator


def _metric_of_all(contenders: Sequence[Contender], asked: Sequence[DataSplit]) -> str:
    """The metric; raises InputError for questions it does not fit, and unless a paired test of two says something."""
    metrics = [
        choose_scoring(one.recipe, own.examples, scienceqa=own.problems is not None)[0]
        for one, own in zip(contenders, asked, strict=True)
    ]
    if len(contenders) > 1:
        _check_comparable(contenders, asked, metrics)
    return metrics[0]


def _check_comparable(contenders: Sequence[Contender], asked: Sequence[DataSplit], metrics: Sequence[str]) -> None:
    """Raise InputError unless the two are asked the same and scored alike."""
    (one, other), (mine, theirs) = contenders, (split.examples for split in asked)
    unlike = {_asks(item) for item in mine} ^ {_asks(item) for item in theirs}
    if unlike:
        count, first = len({id for id, _ in unlike}), min(id for id, _ in unlike)
        raise InputError(
            f"{one.name} and {other.name} have other questions in their recipes' data: {count:,} of {len(mine):,} and "
            f"{len(theirs):,} differ, such as {first}. Give both the same, such as "
            f"--set data.path={one.recipe.data.path}."
        )
    if metrics[0] != metrics[1]:
        raise InputError(
            f"{one.name} is scored by {metrics[0]} and {other.name} by {metrics[1]}; "
            f"--set evaluation.metric={metrics[0]} scores both alike."
        )


def _asks(example: Example) -> tuple[str, object]:
    """What makes a question the same for two models, in whatever form each is asked."""
    return example.id, list_references(example) if example.answer is None else example.answer


def load_contenders(
    adapter: str, overrides: Sequence[str], *, base_only: bool = False, other: str | None = None
) -> list[Contender]:
    """Who is asked: the adapter or its frozen base, and another adapter or with ``base`` the frozen base.

    Args:
        adapter, other: as for :func:`~lora_mm.artifact.hub.locate_adapter`.

    Raises:
        InputError: for what is no adapter, recipes that do not fit, or one model twice.
    """
    first = _contender(adapter, overrides)
    frozen = Contender("frozen base", first.recipe, None)
    if other == FROZEN_BASE and base_only:
        raise InputError("--base-only --compare base: is one model twice; leave one of them out.")
    if other is None or other == FROZEN_BASE:
        asked = frozen if base_only else replace(first, name="adapter")
        return [asked] if other is None else [asked, frozen]
    second = _contender(other, overrides)
    if base_only:
        return [frozen, second]
    assert first.adapter is not None
    assert second.adapter is not None
    if first.adapter.resolve() == second.adapter.resolve():
        raise InputError(f"--compare {other}: is the same adapter twice.")
    if first.name == second.name:
        return [replace(first, name=adapter), replace(second, name=other)]
    return [first, second]


def _contender(text: str, overrides: Sequence[str]) -> Contender:
    found = locate_adapter(text)
    recipe = load_recipe(find_adapter_recipe(found.folder), overrides)
    return Contender(found.name, recipe, found.folder, found.origin, found.commit)


def make_page(found: Evaluation, contenders: Sequence[Contender]) -> Page:
    """The evaluation as a page; with the history of training, where the adapter's run left one."""
    asked, adapter = contenders[0], contenders[0].adapter
    names = list(found.scored)
    return Page(
        title=asked.recipe.name,
        summary=asked.recipe.summary,
        facts={
            "Base": asked.recipe.base.model,
            **{one.name[0].upper() + one.name[1:]: one.adapter.resolve().name for one in contenders if one.adapter},
            "Asked": found.account,
        },
        table=found.title,
        scores=found.scores,
        examples=found.examples,
        answers=NamedAnswers(names[0], found.scored[names[0]].answers),
        baseline=NamedAnswers(names[1], found.scored[names[1]].answers) if len(names) > 1 else None,
        comparison=found.comparison,
        history=_history(adapter) if adapter else [],
        routing=found.routing,
        recipe=asked.recipe.to_yaml(),
    )


def _history(adapter: Path) -> list[dict[str, float]]:
    """What training logged; nothing of an adapter that came without its run's figures."""
    try:
        history = json.loads((adapter / SCORES).read_text(encoding="utf-8"))["figures"]["history"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [entry for entry in history if isinstance(entry, dict) and isinstance(entry.get("step"), int)]
