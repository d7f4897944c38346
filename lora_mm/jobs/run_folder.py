"""The folder of a run: who may write to it, and its recipe, scores, card and report. Trains nothing."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from filelock import FileLock, Timeout

from lora_mm import distributed
from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.artifact.card import render_model_card
from lora_mm.artifact.files import CARD, CONFIG, PREPROCESSING, RECIPE, SCORES, WEIGHTS, read_json_object
from lora_mm.atomic import check_writable, explain_write_errors, remove_leftovers, write_atomically
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
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from lora_mm.training.checkpoints import UNFINISHED, find_last_checkpoint

RUN = "run.json"
"""Marks the folder of a run, and names the recipe that it runs by its hash. Written first, and whole."""

LOCK = ".lock"
"""Locked by the process that writes to the folder; the system releases it when the process ends."""

CHECKPOINTS = "checkpoints"
BASE_PREDICTIONS, ADAPTER_PREDICTIONS = "predictions-base.jsonl", "predictions-adapter.jsonl"
REPORT = "report.html"

_PREDICTIONS = [
    str(Path(name).with_suffix(suffix))
    for name in (BASE_PREDICTIONS, ADAPTER_PREDICTIONS)
    for suffix in (".json", ".jsonl")
]
RUN_FILES = (CARD, CONFIG, PREPROCESSING, RECIPE, REPORT, SCORES, WEIGHTS, *_PREDICTIONS)
"""All files that a run writes beside :data:`RUN` and the folder :data:`CHECKPOINTS`. It deletes no others."""

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


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other runs out of it inside the block.

    Args:
        folder: the folder of ``--output``. It is removed again if nothing was written to it.

    Raises:
        InputError: ``folder`` is a file, or another run writes to it.
        LoraMMError: the folder cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file, not a folder.")
    lock = FileLock(folder / LOCK)
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"--output {folder}: another run is writing to this folder. Wait for its end, or name another folder."
            ) from None
        remove_leftovers(folder, idle_seconds=0)
        shutil.rmtree(folder / CHECKPOINTS / UNFINISHED, ignore_errors=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete open files
            (folder / LOCK).unlink()
        lock.release()
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def check_run_folder(
    folder: Path, recipe: Recipe, recipe_path: Path | None = None, *, resume: bool, overwrite: bool
) -> None:
    """Check that a run of ``recipe`` may write to ``folder``. Changes nothing.

    Args:
        folder: the folder of ``--output``.
        recipe: the recipe to run.
        recipe_path: its file, if it was read from one.
        resume: whether to continue the run in ``folder``; a run that has not begun is begun.
        overwrite: whether to delete the run in ``folder`` first.

    Raises:
        InputError: the folder is a file or not empty, or ``resume`` or ``overwrite`` do not fit its contents.
        LoraMMError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: is a file, not a folder.")
    if resume and overwrite:
        raise InputError("--resume continues a run and --overwrite deletes it; give only one of them.")
    check_writable(folder / RECIPE)
    if not folder.is_dir() or all(file.name == LOCK for file in folder.iterdir()):
        return
    is_run = (folder / RUN).is_file()
    if resume and not is_run:
        raise InputError(f"--resume: {folder} is not the folder of a run: it has no {RUN}. Name another with --output.")
    if resume:
        _check_same_recipe(folder, recipe)
    elif overwrite:
        _check_deletable(folder, recipe, recipe_path, is_run)
    else:
        ways = "Continue its run with --resume, delete it with --overwrite, or name" if is_run else "Name"
        raise InputError(f"--output {folder}: the folder is not empty. {ways} another folder with --output.")


def _check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Check that the run in ``folder`` is one of ``recipe``; otherwise name a way out that works."""
    began_with = _read_recipe_hash(folder)
    if began_with == hash_recipe(recipe):
        return
    saved, ways = folder / RECIPE, "start a new run with another --output"
    with contextlib.suppress(InputError):
        if hash_recipe(load_recipe(str(saved))) == began_with:
            ways = f"continue with `--recipe {saved} --resume`, or {ways}"
    raise InputError(f"--resume: the recipe differs from the one that the run in {folder} began with; {ways}.")


def _read_recipe_hash(folder: Path) -> str | None:
    recipe = read_json_object(folder / RUN).get("recipe")
    return recipe if isinstance(recipe, str) else None


def _check_deletable(folder: Path, recipe: Recipe, recipe_path: Path | None, is_run: bool) -> None:
    if not is_run:
        raise InputError(f"--overwrite: {folder} is not the folder of a run: it has no {RUN}. Delete it yourself.")
    needed = [source for entry in recipe.data.all_sources for source in (entry.path, entry.eval_path) if source]
    needed += [str(recipe_path)] if recipe_path else []
    inside = [name for name in needed if Path(name).resolve().is_relative_to(folder.resolve())]
    if inside:
        raise InputError(
            f"--overwrite: the new run needs {', '.join(inside)} in the folder {folder}. Move it out first, or name "
            "another folder with --output."
        )


def hash_recipe(recipe: Recipe) -> str:
    """Hash a resolved recipe: two runs of one hash do the same."""
    return hashlib.sha256(recipe.to_yaml().encode()).hexdigest()


def choose_checkpoint(folder: Path, recipe: Recipe) -> tuple[Path | None, list[str]]:
    """Choose the checkpoint from which to continue the run in ``folder``.

    Args:
        folder: a folder that :func:`check_run_folder` accepted.
        recipe: the recipe of the run.

    Returns:
        The last whole checkpoint, None if the run has saved none yet, and a line for each later one that is not whole.

    Raises:
        InputError: no checkpoint is whole, or the run needs another number of processes.
    """
    checkpoint, faults = find_last_checkpoint(folder / CHECKPOINTS, hash_recipe(recipe))
    if checkpoint is None and faults:
        raise InputError(
            *(f"--resume: {fault}." for fault in faults),
            f"No checkpoint is left to continue from. Start again with --overwrite, or restore {folder / CHECKPOINTS}.",
        )
    if checkpoint is not None:
        before, now = max(1, len(list(checkpoint.glob("rng_state_*.pth")))), distributed.world_size()
        if before != now:
            raise InputError(f"--resume: {checkpoint} needs {_count(before)}, but this run has {now}.")
    return checkpoint, faults


def _count(processes: int) -> str:
    return f"{processes} process{'' if processes == 1 else 'es'}"


def prepare_run_folder(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Save the recipe in the folder of a run.

    Args:
        folder: a folder that :func:`check_run_folder` accepted, and that this process has locked.
        recipe: the recipe to run.
        overwrite: whether to delete the run in ``folder`` first. Files that no run wrote are kept.

    Raises:
        LoraMMError: the folder cannot be written.
    """
    if overwrite:
        _delete_run(folder)
    write_atomically(folder / RUN, to_json({"recipe": hash_recipe(recipe)}) + "\n")
    write_atomically(folder / RECIPE, recipe.to_yaml())


def _delete_run(folder: Path) -> None:
    """Delete what a run wrote but for :data:`RUN`: stopped in between, the folder is still one to overwrite."""
    with explain_write_errors(folder):
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)
        if (folder / CHECKPOINTS).is_symlink():
            (folder / CHECKPOINTS).unlink()
        elif (folder / CHECKPOINTS).is_dir():
            shutil.rmtree(folder / CHECKPOINTS)


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
    """Load the scores and figures of a finished run from its folder; InputError if they cannot be read."""
    return read_json_object(folder / SCORES)
