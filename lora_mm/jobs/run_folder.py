"""What a run leaves beside its adapter's weights: its scores, the model card and the page. Knows no training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft

from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.artifact.card import render_model_card
from lora_mm.artifact.files import CARD, SCORES
from lora_mm.atomic import write_atomically
from lora_mm.data.example import Example
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.compare import Comparison
from lora_mm.evaluation.html.gallery import NamedAnswers
from lora_mm.evaluation.html.page import Page
from lora_mm.evaluation.report import scores_to_dict, scores_to_markdown, to_json
from lora_mm.evaluation.score import Score
from lora_mm.models.loading import Base, measure_memory
from lora_mm.recipe.sections import Recipe

REPORT = "report.html"
BASE, ADAPTER = "frozen base", "adapter"
"""Names of the two in tables."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run.

    Attributes:
        folder: the adapter's.
        title: of the table of scores.
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        scores: the table's rows.
        figures: of the run itself.
        comparison: the adapter against the frozen base, where that was scored.
        answers: of :data:`FROZEN_BASE` and :data:`ADAPTER`.
        written: whether answers were written; else they were taken by likelihood.
    """

    folder: Path
    title: str
    metric: str
    scores: dict[str, Score]
    figures: dict[str, Any]
    comparison: Comparison | None
    answers: Mapping[str, Sequence[Answer]]
    written: bool


def write_run_folder(
    outcome: RunResult,
    recipe: Recipe,
    model: peft.PeftModel,
    base: Base,
    questions: Sequence[Example],
    routing: Sequence[RoutingMap],
) -> None:
    """Write scores, card and page into the folder.

    Raises:
        LoraMMError: one of them cannot be written.
    """
    facts = {
        "recipe": recipe.name,
        "metric": outcome.metric,
        "scores": scores_to_dict(outcome.scores),
        "comparison": outcome.comparison.as_dict() if outcome.comparison else None,
        "figures": outcome.figures,
    }
    write_atomically(outcome.folder / SCORES, to_json(facts) + "\n")
    write_atomically(outcome.folder / CARD, _card(outcome, recipe, model, base))
    page = Page(
        title=recipe.name,
        summary=recipe.summary,
        facts=_strip(base, outcome.figures),
        table=outcome.title,
        scores=outcome.scores,
        examples=questions,
        answers=NamedAnswers(ADAPTER, outcome.answers[ADAPTER]),
        baseline=NamedAnswers(BASE, outcome.answers[BASE]) if BASE in outcome.answers else None,
        comparison=outcome.comparison,
        history=outcome.figures["history"],
        routing=routing,
        recipe=recipe.to_yaml(),
    )
    page.write(outcome.folder / REPORT)


def _strip(base: Base, figures: Mapping[str, Any]) -> dict[str, str]:
    """The strip of figures on top of the page."""
    peak = figures["peak_gpu_bytes"]
    return {
        "Base": base.name,
        "Trained on": f"{figures['train_rows']:,} examples",
        "Asked": f"{figures['test_rows']:,} questions",
        "Steps": f"{figures['steps']:,}",
        "Training time": f"{figures['train_seconds']:,.0f} s",
        "Speed": f"{figures['samples_per_second']:,.1f} samples/s",
        "Trained parameters": f"{figures['trained_parameters']:,}",
        "Adapter": f"{figures['adapter_bytes'] / 1000:,.0f} KB",
        **({"Peak GPU memory": f"{peak / 2**30:.1f} GiB"} if peak else {}),
    }


def _card(outcome: RunResult, recipe: Recipe, model: peft.PeftModel, base: Base) -> str:
    figures = outcome.figures
    described = (
        f"{outcome.title}, {figures['test_rows']:,} problems, answers by "
        f"{'generation' if outcome.written else 'option likelihood'}; "
        f"trained on {figures['train_rows']:,} problems, {figures['steps']:,} steps, {figures['train_seconds']:.0f} s."
    )
    return render_model_card(
        name=outcome.folder.name,
        summary=recipe.summary,
        base=base.name,
        revision=base.revision,
        version=version("lora-mm"),
        data=recipe.data.where,
        methods=[item.method for item in recipe.adapters],
        stock=isinstance(model.peft_config["default"], peft.LoraConfig),
        trained=figures["trained_parameters"],
        size=f"{figures['adapter_bytes'] / 1000:.0f} KB",
        scores=f"{described}\n\n{scores_to_markdown(outcome.scores)}",
        parts=measure_memory(model),
        folder=outcome.folder.name,
        licence=recipe.license,
    )


def load_scores(folder: Path) -> dict[str, Any]:
    """What a finished run measured, as saved beside its adapter."""
    facts: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    return facts
