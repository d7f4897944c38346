"""The folder of a run: checks that a run may use it, and writes its recipe, scores, card and report. Trains nothing."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft

from lora_mm import distributed
from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.artifact.card import render_model_card
from lora_mm.artifact.files import CARD, RECIPE, SCORES
from lora_mm.atomic import check_writable, explain_write_errors, write_atomically
from lora_mm.data.example import Example
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.compare import Comparison
from lora_mm.evaluation.html.gallery import NamedAnswers
from lora_mm.evaluation.html.page import Page
from lora_mm.evaluation.metrics import name_metric_on_hub
from lora_mm.evaluation.score import Score
from lora_mm.evaluation.tables import scores_to_dict, scores_to_markdown
from lora_mm.json_text import to_json
from lora_mm.models.loading import Base
from lora_mm.models.memory import measure_memory
from lora_mm.models.picture_fit import describe_fit
from lora_mm.recipe.sections import Recipe

CHECKPOINTS = "checkpoints"
BASE_PREDICTIONS, ADAPTER_PREDICTIONS = "predictions-base.jsonl", "predictions-adapter.jsonl"
REPORT = "report.html"

BASE_ROW, ADAPTER_ROW = "frozen base", "adapter"
"""Rows of the score table, and names of the two models in reports."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run.

    Attributes:
        folder: the adapter folder.
        title: title of the score table.
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        scores: name of the row → score.
        figures: steps, seconds, sizes and training history of the run.
        comparison: the adapter against the frozen base; None if the base was not scored.
        answers: name of the row → answers, for :data:`BASE_ROW` and :data:`ADAPTER_ROW`.
        generated: whether the model generated its answers; otherwise candidates were compared by likelihood.
    """

    folder: Path
    title: str
    metric: str
    scores: dict[str, Score]
    figures: dict[str, Any]
    comparison: Comparison | None
    answers: Mapping[str, Sequence[Answer]]
    generated: bool


def check_run_folder(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Check that a run of ``recipe`` may write to ``folder``. Changes nothing.

    Args:
        folder: the folder of ``--output``.
        recipe: the recipe to run.
        resume: whether to continue from the last checkpoint in ``folder``.
        overwrite: whether to delete what is in ``folder`` first.

    Raises:
        InputError: the folder is a file or not empty, or ``resume`` or ``overwrite`` do not fit its contents.
        LoraMMError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file, not a folder.")
    if resume and overwrite:
        raise InputError("--resume continues a run and --overwrite deletes it; give only one of them.")
    used = folder.is_dir() and any(folder.iterdir())
    if resume:
        _check_resumable(folder, recipe)
    elif used and overwrite and not (folder / RECIPE).is_file():
        raise InputError(f"--overwrite: {folder} is not the folder of a run: it has no {RECIPE}. Delete it yourself.")
    elif used and not overwrite:
        raise InputError(
            f"--output {folder}: the folder is not empty. Continue its run with --resume, delete it with --overwrite, "
            "or name another folder with --output."
        )
    check_writable(folder / RECIPE)


def _check_resumable(folder: Path, recipe: Recipe) -> None:
    checkpoint = find_last_checkpoint(folder)
    if checkpoint is None:
        raise InputError(f"--resume: no checkpoint in {folder / CHECKPOINTS}; start without --resume.")
    before, now = max(1, len(list(checkpoint.glob("rng_state_*.pth")))), distributed.world_size()
    if before != now:
        raise InputError(f"--resume: {checkpoint} needs {_count(before)}, but this run has {now}.")
    saved = folder / RECIPE
    if saved.is_file() and saved.read_text(encoding="utf-8") != recipe.to_yaml():
        raise InputError(
            f"--resume: the recipe differs from {saved}; continue with `--recipe {saved} --resume`, "
            "or start a new run with another --output."
        )


def _count(processes: int) -> str:
    return f"{processes} process{'' if processes == 1 else 'es'}"


def find_last_checkpoint(folder: Path) -> Path | None:
    """Find the latest complete checkpoint in ``folder``; the Trainer writes ``trainer_state.json`` last."""
    complete = [file.parent for file in folder.glob(f"{CHECKPOINTS}/checkpoint-*/trainer_state.json")]
    return max(complete, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)


def prepare_run_folder(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Make the folder of a run, and save the recipe in it.

    Args:
        folder: folder that :func:`check_run_folder` accepted.
        recipe: the recipe to run.
        overwrite: whether to delete what is in ``folder`` first.

    Raises:
        LoraMMError: the folder cannot be written.
    """
    with explain_write_errors(folder):
        if overwrite and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")


def write_run_folder(
    result: RunResult,
    recipe: Recipe,
    model: peft.PeftModel,
    base: Base,
    questions: Sequence[Example],
    routing: Sequence[RoutingMap],
) -> None:
    """Write scores, model card and report into the folder of a finished run.

    Args:
        result: the result of the run, with its folder.
        recipe: the recipe that ran.
        model: the trained model, for the sizes of its parts.
        base: the base of the model.
        questions: the test examples, in the order of the answers.
        routing: where the adapter routes the tokens of some questions.

    Raises:
        LoraMMError: a file cannot be written.
    """
    facts = {
        "recipe": recipe.name,
        "metric": result.metric,
        "scores": scores_to_dict(result.scores),
        "comparison": result.comparison.as_dict() if result.comparison else None,
        "figures": result.figures,
    }
    write_atomically(result.folder / SCORES, to_json(facts) + "\n")
    write_atomically(result.folder / CARD, _render_card(result, recipe, model, base))
    page = Page(
        title=recipe.name,
        summary=recipe.summary,
        facts=_summarize_run(base, result.figures),
        table=result.title,
        scores=result.scores,
        examples=questions,
        answers=NamedAnswers(ADAPTER_ROW, result.answers[ADAPTER_ROW]),
        baseline=NamedAnswers(BASE_ROW, result.answers[BASE_ROW]) if BASE_ROW in result.answers else None,
        comparison=result.comparison,
        history=result.figures["history"],
        routing=routing,
        recipe=recipe.to_yaml(),
    )
    page.write(result.folder / REPORT)


def _summarize_run(base: Base, figures: Mapping[str, Any]) -> dict[str, str]:
    """Write the facts at the top of the report."""
    peak = figures["peak_gpu_bytes"]
    return {
        "Base": base.name,
        "Trained on": f"{figures['train_rows']:,} examples",
        "Scored on": f"{figures['test_rows']:,} questions",
        "Steps": f"{figures['steps']:,}",
        "Training time": f"{figures['train_seconds']:,.0f} s",
        "Speed": f"{figures['samples_per_second']:,.1f} samples/s",
        "Trained parameters": f"{figures['trained_parameters']:,}",
        "Adapter": f"{figures['adapter_bytes'] / 1000:,.0f} KB",
        **({"Peak GPU memory": f"{peak / 2**30:.1f} GiB"} if peak else {}),
    }


def _render_card(result: RunResult, recipe: Recipe, model: peft.PeftModel, base: Base) -> str:
    figures, columns = result.figures, result.scores[ADAPTER_ROW].columns
    description = (
        f"{result.title}, {figures['test_rows']:,} problems, answers by "
        f"{'generation' if result.generated else 'option likelihood'}; "
        f"trained on {figures['train_rows']:,} problems, {figures['steps']:,} steps, {figures['train_seconds']:.0f} s."
    )
    return render_model_card(
        name=result.folder.name,
        summary=recipe.summary,
        base=base.name,
        revision=base.revision,
        data=recipe.data.location,
        methods=[item.method for item in recipe.adapters],
        stock=isinstance(model.peft_config["default"], peft.LoraConfig),
        trained=figures["trained_parameters"],
        size=f"{figures['adapter_bytes'] / 1000:.0f} KB",
        scores=f"{description}\n\n{scores_to_markdown(result.scores)}",
        parts=measure_memory(model),
        folder=result.folder.name,
        pictures=describe_fit(recipe.data.pictures.fit),
        licence=recipe.license,
        metrics={column: name_metric_on_hub(result.metric, column) for column in columns},
        split=recipe.data.eval_split,
        figures={name: figure.value for name, figure in columns.items() if figure.value is not None},
    )


def load_scores(folder: Path) -> dict[str, Any]:
    """Load the scores and figures of a finished run from its folder."""
    facts: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    return facts
