"""Runs one fine-tuning, from recipe to adapter folder. Knows the order of the steps; other modules do them."""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import set_seed

from lora_mm import distributed
from lora_mm.adapters.attach import attach, find_idle_experts
from lora_mm.adapters.targets import describe_coverage
from lora_mm.artifact.files import WEIGHTS
from lora_mm.artifact.folder import round_adapter_weights, save_adapter
from lora_mm.atomic import explain_write_errors
from lora_mm.console import PlainConsole
from lora_mm.data.collate import Collator, PreparedExamples
from lora_mm.data.example import Example
from lora_mm.data.questions import fit_questions
from lora_mm.data.splits import DataSplit, load_train_and_test
from lora_mm.errors import InputError, truncate_faults
from lora_mm.evaluation.answers import Answer, load_answers
from lora_mm.evaluation.compare import compare_answers
from lora_mm.evaluation.score import Score
from lora_mm.evaluation.scoring import (
    ScoredAnswers,
    choose_scoring,
    format_title,
    sample_routing,
    score_answers,
    score_by_chance,
    score_model,
)
from lora_mm.evaluation.tables import scores_to_table
from lora_mm.jobs.plan import format_estimate
from lora_mm.jobs.run_folder import (
    ADAPTER_PREDICTIONS,
    ADAPTER_ROW,
    BASE_PREDICTIONS,
    BASE_ROW,
    CHECKPOINTS,
    RunResult,
    check_run_folder,
    choose_checkpoint,
    hash_recipe,
    lock_run_folder,
    prepare_run_folder,
    write_run_folder,
)
from lora_mm.jobs.session import check_sources, load_recipe_base, make_base_collator
from lora_mm.merging.outlook import find_merge_obstacles
from lora_mm.models.data_flow import check_norms
from lora_mm.models.loading import Base
from lora_mm.models.memory import measure_memory
from lora_mm.progress import Display
from lora_mm.recipe.load import load_recipe, recipe_file
from lora_mm.recipe.sections import Recipe
from lora_mm.training.gradients import broadcast_weights
from lora_mm.training.run import check_logger, train


def finetune(
    recipe: Recipe | str | Path,
    output: Path | str | None = None,
    console: Console | None = None,
    *,
    overrides: Iterable[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> RunResult | None:
    """Fine-tune as a recipe says, score the frozen base and the adapter, and write the adapter folder.

    If several processes are launched, all of them train; rank 0 does everything else.

    Args:
        recipe: a recipe, or its name or YAML file.
        output: the adapter folder; ``runs/NAME`` by default. Checkpoints are saved in ``checkpoints/`` inside it.
        console: console for progress and tables; by default standard output.
        overrides: ``key=value`` settings, as for ``--set``; only for a recipe given by name or file.
        resume: continue the run in ``output`` from its last whole checkpoint, or from the start if it has none.
        overwrite: delete the run in ``output`` first.
        dry_run: do everything up to the first training step, and write nothing.

    Returns:
        The result of the run; None after a dry run, and on all ranks but 0.

    Raises:
        InputError: recipe, data or folder cannot be used.
        LoraMMError: the run fails.
        Interrupted: after Ctrl-C or another stop signal, with a checkpoint saved.
    """
    started = time.monotonic()
    recipe, recipe_path = _load(recipe, overrides)
    output = Path("runs") / recipe.name if output is None else Path(output)
    display = Display(PlainConsole() if console is None else console)
    distributed.init_process_group()
    with ExitStack() as stack:
        if not dry_run and not distributed.rank():
            stack.enter_context(lock_run_folder(output))
        check_run_folder(output, recipe, recipe_path, resume=resume, overwrite=overwrite)
        check_logger(recipe.training.report_to)
        checkpoint, damaged = choose_checkpoint(output, recipe) if resume else (None, [])
        distributed.barrier()  # all ranks check the folder before rank 0 writes to it
        for fault in damaged:
            display.say(f"Not used: {fault}.")
        job = _prepare_job(recipe, display)
        if dry_run:
            distributed.destroy_process_group()
            display.say("Dry run: the recipe can run as it is. Nothing was written.")
            return None
        if not distributed.rank():
            prepare_run_folder(output, recipe, overwrite=overwrite)
        return _run(job, output, checkpoint, started)


def _run(job: "_Job", output: Path, checkpoint: Path | None, started: float) -> RunResult | None:
    """Score the base, train from ``checkpoint`` on, score the adapter, and write its folder; see :func:`finetune`."""
    baselines = None if distributed.rank() else _score_baselines(job, output)
    distributed.barrier()  # the other ranks wait while rank 0 scores
    figures = train(
        job.model,
        job.collator,
        job.prepared,
        job.recipe.training,
        output / CHECKPOINTS,
        job.display,
        run_name=output.name,
        recipe=hash_recipe(job.recipe),
        resume_from=checkpoint,
    )
    distributed.destroy_process_group()
    if baselines is None:
        return None
    distributed.become_single_process()
    _warn_about_idle_experts(job.model, job.display)
    _save(job, output)
    result = _score_adapter(job, output, baselines, figures, started)
    routing = sample_routing(job.model, job.collator, job.test.examples)
    write_run_folder(result, job.recipe, job.model, job.base, job.test.examples, routing)
    job.display.console.print(scores_to_table(result.scores, title=result.title))
    return result


def make_parts_table(model: nn.Module) -> Table:
    """Make a table of the model's parts: parameters, trained parameters, and MiB."""
    table = Table(title="What trains", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("part", "parameters", "trained", "share", "MiB"):
        table.add_column(column, justify="left" if column == "part" else "right")
    rows = measure_memory(model)
    rows["all"] = tuple(sum(column) for column in zip(*rows.values(), strict=True))
    for part, (total, trained, size) in rows.items():
        table.add_row(part, f"{total:,}", f"{trained:,}", f"{trained / total:.2%}", f"{size / 2**20:,.1f}")
    return table


@dataclass(frozen=True)
class _Job:
    """Everything that a run needs, loaded and checked.

    Attributes:
        recipe: the recipe.
        display: shows progress.
        test: the evaluation split.
        metric: a row of :data:`~lora_mm.evaluation.metrics.METRICS`.
        base: the loaded base.
        collator: its collator.
        prepared: the training examples.
        model: the base with its adapters.
    """

    recipe: Recipe
    display: Display
    test: DataSplit
    metric: str
    base: Base
    collator: Collator
    prepared: PreparedExamples
    model: peft.PeftModel

    def score_model(self, label: str) -> ScoredAnswers:
        """Score the model in its current state, with a progress bar named ``label``."""
        questions = self.test.examples
        advance = self.display.watch(label, len(questions))
        return score_model(self.model, self.collator, self.recipe, questions, advance, problems=self.test.problems)


def _load(recipe: Recipe | str | Path, overrides: Iterable[str]) -> tuple[Recipe, Path | None]:
    """Load the recipe; also returns its file, if it was given by name or file."""
    if not isinstance(recipe, Recipe):
        return load_recipe(str(recipe), overrides), recipe_file(str(recipe))
    if list(overrides):
        raise ValueError("overrides apply to a recipe given by name or file, not to a Recipe.")
    return recipe, None


def _prepare_job(recipe: Recipe, display: Display) -> _Job:
    """Load data and base, attach the adapters, and print what trains."""
    check_sources(recipe)
    train_split, test = load_train_and_test(recipe)
    display.say(train_split.account())
    metric, _ = choose_scoring(recipe, test.examples, scienceqa=test.problems is not None)
    base = load_recipe_base(recipe)
    collator = make_base_collator(recipe, base)
    prepared = collator.prepare(train_split.examples, recipe.data.overlong, recipe.data.faulty_rows)
    if not len(prepared.examples):
        raise InputError(
            f"No example of '{recipe.data.train_split}' is left to train on: all are faulty or over data.max_length.",
            *truncate_faults(prepared.faults),
        )
    test = fit_questions(test, collator, recipe.data)
    display.say(f"{test.account()}\n{_format_lengths(prepared)}")

    for note in check_norms(base.model, collator([_find_pictured(prepared)])):
        display.say(note)
    set_seed(recipe.training.seed)  # before attach draws the adapter's initial weights
    model = attach(base.model, recipe.adapters, train=recipe.train, kernels=recipe.base.kernels)
    broadcast_weights(model)
    display.console.print(make_parts_table(model))
    for line in (*describe_coverage(model.get_base_model(), recipe.adapters), *_describe_merging(model)):
        display.say(line)
    display.say(format_estimate(recipe, collator, prepared))
    return _Job(recipe, display, test, metric, base, collator, prepared, model)


def _find_pictured(prepared: PreparedExamples) -> Example:
    """The first example with a picture; the first one if there is none."""
    example: Example = prepared.examples[next((n for n, pictured in enumerate(prepared.pictured) if pictured), 0)]
    return example


def _describe_merging(model: peft.PeftModel) -> list[str]:
    obstacles = find_merge_obstacles(model)
    return [f"This adapter will not merge into base weights: {obstacles[0]}"] if obstacles else []


def _format_lengths(prepared: PreparedExamples) -> str:
    lengths = sorted(prepared.lengths)
    pictured = sum(prepared.pictured)
    line = f"{pictured:,} examples with pictures, {len(lengths) - pictured:,} without; "
    line += f"tokens per example: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}"
    if prepared.dropped:
        line += f"; {len(prepared.dropped):,} dropped as too long"
    if prepared.truncated:
        line += f"; {len(prepared.truncated):,} answers cut to fit"
    if prepared.faults:
        line += f"; {len(prepared.faults):,} dropped as faulty, for example {prepared.faults[0]}"
    return line


@dataclass(frozen=True)
class _Baselines:
    """Rows of the score table that need no training, and the frozen base's answers; None if it is not scored."""

    scores: dict[str, Score]
    answers: Sequence[Answer] | None


def _score_baselines(job: _Job, output: Path) -> _Baselines:
    """Score random choice and the frozen base, before training, so that errors in scoring show early."""
    questions, problems = job.test.examples, job.test.problems
    scores = score_by_chance(job.metric, questions, problems)
    if not job.recipe.evaluation.base:
        return _Baselines(scores, None)
    answers = _answer_with_base(job, output / BASE_PREDICTIONS)
    scores[BASE_ROW] = score_answers(job.metric, questions, answers, problems)
    return _Baselines(scores, answers)


def _answer_with_base(job: _Job, file: Path) -> Sequence[Answer]:
    """Get the frozen base's answers; a resumed run reads them from ``file``."""
    if file.is_file():
        saved = load_answers(file)
        if [answer.id for answer in saved] == [question.id for question in job.test.examples]:
            return saved
    with job.model.disable_adapter():
        scored = job.score_model(BASE_ROW)
    _write_predictions(scored, file)
    return scored.answers


def _write_predictions(scored: ScoredAnswers, file: Path) -> None:
    """Write answers as JSON lines; for ScienceQA also in its official format."""
    if scored.metric == "scienceqa":
        scored.write(file.with_suffix(".json"))
    scored.write(file)


def _warn_about_idle_experts(model: peft.PeftModel, display: Display) -> None:
    for method, experts in find_idle_experts(model).items():
        display.say(
            f"{method}: no training data reached experts {', '.join(map(str, experts))} (counted from 0), so they do "
            "nothing. Set fewer experts (adapters.N.experts)."
        )


def _save(job: _Job, output: Path) -> None:
    """Save the adapter, and round its weights in memory as in the file, because scores are those of the file."""
    recipe = job.recipe
    dtype = getattr(torch, recipe.save_dtype)
    round_adapter_weights(job.model, dtype)
    with explain_write_errors(output):
        save_adapter(
            job.model,
            output,
            base=job.base,
            recipe=recipe.to_yaml(),
            fit=recipe.data.pictures.fit,
            special_tokens=recipe.data.special_tokens,
            dtype=dtype,
        )


def _score_adapter(
    job: _Job, output: Path, baselines: _Baselines, figures: dict[str, Any], started: float
) -> RunResult:
    """Score the trained adapter, compare it with the frozen base, and collect the results of the run."""
    questions = job.test.examples
    scored = job.score_model(ADAPTER_ROW)
    _write_predictions(scored, output / ADAPTER_PREDICTIONS)
    answers: dict[str, Sequence[Answer]] = {ADAPTER_ROW: scored.answers}
    comparison = None
    if baselines.answers is not None:
        answers[BASE_ROW] = baselines.answers
        comparison = compare_answers((ADAPTER_ROW, BASE_ROW), scored.answers, baselines.answers)
    return RunResult(
        folder=output,
        title=format_title(job.metric, job.recipe.data.eval_split),
        metric=job.metric,
        scores=baselines.scores | {ADAPTER_ROW: scored.score},
        figures=figures
        | {
            "adapter_bytes": (output / WEIGHTS).stat().st_size,
            "total_seconds": round(time.monotonic() - started, 1),
            "train_rows": len(job.prepared.examples),
            "test_rows": len(questions),
        },
        comparison=comparison,
        answers=answers,
        generated=scored.generated,
    )
