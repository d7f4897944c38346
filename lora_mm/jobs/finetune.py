"""One fine-tuning run, from recipe to adapter folder. Knows the order of things; each thing is done elsewhere."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.integrations import get_available_reporting_integrations

from lora_mm import distributed
from lora_mm.adapters.attach import attach, find_idle_experts
from lora_mm.artifact.files import RECIPE, WEIGHTS
from lora_mm.artifact.folder import round_adapter_weights, save_adapter
from lora_mm.data.collate import Collator, PreparedExamples
from lora_mm.data.example import Example
from lora_mm.data.splits import load_train_and_test
from lora_mm.errors import InputError, LoraMMError, truncate_faults
from lora_mm.evaluation.answers import Answer, load_answers
from lora_mm.evaluation.compare import compare_answers
from lora_mm.evaluation.report import scores_to_table
from lora_mm.evaluation.scoring import (
    ScoredAnswers,
    choose_scoring,
    format_title,
    sample_routing,
    score_answers,
    score_by_chance,
    score_model,
)
from lora_mm.interrupt import Interrupt
from lora_mm.jobs.plan import format_estimate
from lora_mm.jobs.run_folder import ADAPTER, BASE, RunResult, write_run_folder
from lora_mm.jobs.session import check_sources, load_recipe_base, make_base_collator
from lora_mm.models.memory import measure_memory
from lora_mm.out_of_memory import explain_out_of_memory
from lora_mm.progress import Display, TrainingProgress
from lora_mm.recipe.sections import Recipe
from lora_mm.training.gradients import broadcast_weights
from lora_mm.training.trainer import AdapterTrainer

CHECKPOINTS = "checkpoints"
BASE_ANSWERS, ADAPTER_ANSWERS = "predictions-base.jsonl", "predictions-adapter.jsonl"


class Interrupted(LoraMMError):
    """Ctrl-C during training, after everything was saved."""

    exit_code = 130


def finetune(
    recipe: Recipe,
    output: Path,
    console: Console,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> RunResult | None:
    """Fine-tune as ``recipe`` says, score base and adapter, and write the adapter folder.

    Of several processes all train, and the first does the rest.

    Args:
        output: the adapter folder; checkpoints go into ``checkpoints/`` inside it.
        console: where progress and tables go.
        resume: go on from the last checkpoint in ``output``.
        overwrite: throw away what is in ``output`` first.
        dry_run: do everything up to the first step, and write nothing.

    Returns:
        What came of it; None after a dry run, and in all processes but the first.

    Raises:
        InputError: for anything in recipe, data or folders that cannot be used.
        LoraMMError: when the run itself fails.
        Interrupted: after Ctrl-C, with a checkpoint written.
    """
    begun = time.monotonic()
    distributed.init_process_group()
    _check_output(output, recipe, resume=resume, overwrite=overwrite)
    _check_logger(recipe.training.report_to)
    distributed.barrier()  # all have looked at the folder, before the first writes to it
    display = Display(console)
    check_sources(recipe)
    train, test = load_train_and_test(recipe)
    console.print(f"{train.account()}\n{test.account()}", highlight=False)
    questions = test.examples
    metric, _ = choose_scoring(recipe, questions, scienceqa=test.problems is not None)
    base = load_recipe_base(recipe)
    collator = make_base_collator(recipe, base)
    prepared = collator.prepare(train.examples, recipe.data.overlong, recipe.data.faulty_rows)
    if not len(prepared.examples):
        raise InputError(
            f"No example of '{recipe.data.train_split}' is left to train on: all are over data.max_length, or faulty.",
            *truncate_faults(prepared.faults),
        )
    console.print(_tokens_line(prepared), highlight=False)

    set_seed(recipe.training.seed)  # the adapter's first weights are drawn next
    model = attach(base.model, recipe.adapters, train=recipe.train, kernels=recipe.base.kernels)
    broadcast_weights(model)
    console.print(make_parts_table(model))
    console.print(format_estimate(recipe, collator, prepared), highlight=False)
    if dry_run:
        distributed.destroy_process_group()
        console.print("Dry run: everything fits together; nothing was written.")
        return None

    def score(name: str) -> ScoredAnswers:
        watch = display.watch(name, len(questions))
        return score_model(model, collator, recipe, questions, watch, problems=test.problems)

    scores = score_by_chance(metric, questions, test.problems)
    answers: dict[str, Sequence[Answer]] = {}
    first = not distributed.rank()
    if first:
        _prepare_output(output, recipe, overwrite=overwrite)
        if recipe.evaluation.base:
            answers[BASE] = _base_answers(output / BASE_ANSWERS, model, questions, score)
            scores[BASE] = score_answers(metric, questions, answers[BASE], test.problems)
    distributed.barrier()  # for the first
    figures = _train(model, collator, prepared, recipe, output, display, resume=resume)
    distributed.destroy_process_group()
    if not first:
        return None
    distributed.become_single_process()
    for method, experts in find_idle_experts(model).items():
        console.print(
            f"{method}: nothing in the training data was for its experts {', '.join(map(str, experts))} (counted from "
            "0); they do nothing. Fewer would do (adapters.N.experts).",
            highlight=False,
        )

    dtype = getattr(torch, recipe.save_dtype)
    round_adapter_weights(model, dtype)
    _save(lambda: save_adapter(model, output, base=base, recipe=recipe.to_yaml(), dtype=dtype), output)
    scored = score(ADAPTER)
    _write_answers(scored, output / ADAPTER_ANSWERS)
    scores[ADAPTER], answers[ADAPTER] = scored.score, scored.answers
    comparison = None
    if BASE in answers:
        comparison = compare_answers((ADAPTER, BASE), answers[ADAPTER], answers[BASE])
    figures |= {
        "adapter_bytes": (output / WEIGHTS).stat().st_size,
        "total_seconds": round(time.monotonic() - begun, 1),
        "train_rows": len(prepared.examples),
        "test_rows": len(questions),
    }
    outcome = RunResult(
        folder=output,
        title=format_title(metric, recipe.data.eval_split),
        metric=metric,
        scores=scores,
        figures=figures,
        comparison=comparison,
        answers=answers,
        written=scored.written,
    )
    write_run_folder(outcome, recipe, model, base, questions, sample_routing(model, collator, questions))
    console.print(scores_to_table(scores, title=outcome.title))
    return outcome


def make_parts_table(model: nn.Module) -> Table:
    """What the model is made of and what of it trains, by part."""
    table = Table(title="What trains", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("part", "parameters", "trained", "of it", "MiB"):
        table.add_column(column, justify="left" if column == "part" else "right")
    rows = measure_memory(model)
    rows["all"] = tuple(sum(column) for column in zip(*rows.values(), strict=True))
    for part, (total, trained, size) in rows.items():
        table.add_row(part, f"{total:,}", f"{trained:,}", f"{trained / total:.2%}", f"{size / 2**20:,.1f}")
    return table


def _check_output(output: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file, not a folder.")
    used = output.is_dir() and any(output.iterdir())
    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other: go on with the run, or throw it away.")
    if resume:
        last = find_last_checkpoint(output)
        if last is None:
            raise InputError(f"--resume: no checkpoint in {output / CHECKPOINTS}; start without --resume.")
        saved = output / RECIPE
        had = max(1, len(list(last.glob("rng_state_*.pth"))))
        if had != distributed.world_size():
            now = distributed.world_size()
            raise InputError(f"--resume: {last} is of {had} processes, not of {now}; start as many.")
        if saved.is_file() and saved.read_text(encoding="utf-8") != recipe.to_yaml():
            raise InputError(
                f"--resume: {saved} is another recipe than this one; go on with `--recipe {saved} --resume`, "
                "or start anew with another --output."
            )
    elif used and overwrite and not (output / RECIPE).is_file():
        raise InputError(f"--overwrite: {output} is no folder of a run (no {RECIPE} in it); remove it yourself.")
    elif used and not overwrite:
        raise InputError(
            f"--output {output}: exists and is not empty. Continue it with --resume, throw it away with --overwrite, "
            "or name another folder with --output."
        )


def _check_logger(name: str) -> None:
    if name not in ("none", *get_available_reporting_integrations()):
        raise InputError(f"training.report_to: {name} is not installed; `pip install {name}`, or set it to none.")


def find_last_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint of the run in ``output``; the Trainer writes ``trainer_state.json`` last."""
    whole = [file.parent for file in output.glob(f"{CHECKPOINTS}/checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _prepare_output(output: Path, recipe: Recipe, *, overwrite: bool) -> None:
    def prepare() -> None:
        if overwrite and output.is_dir():
            shutil.rmtree(output)
        output.mkdir(parents=True, exist_ok=True)
        (output / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")

    _save(prepare, output)


def _save(write: Any, output: Path) -> None:
    """Run ``write``, and tell a full disk or a folder that cannot be written as the failures they are."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        raise LoraMMError(f"{output}: cannot be written: {getattr(error, 'strerror', None) or error}.") from error


def _tokens_line(prepared: PreparedExamples) -> str:
    lengths = sorted(prepared.lengths)
    pictured = sum(prepared.pictured)
    line = f"{pictured:,} examples with pictures, {len(lengths) - pictured:,} without; "
    line += f"tokens an example: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}"
    if prepared.dropped:
        line += f"; {len(prepared.dropped):,} dropped as too long"
    if prepared.truncated:
        line += f"; {len(prepared.truncated):,} answers cut to fit"
    if prepared.faults:
        line += f"; {len(prepared.faults):,} dropped as faulty, such as {prepared.faults[0]}"
    return line


def _base_answers(
    file: Path, model: peft.PeftModel, questions: Sequence[Example], score: Callable[[str], ScoredAnswers]
) -> Sequence[Answer]:
    """The frozen base's answers, taken before training, so that a fault of scoring shows at once; kept for a resume."""
    if file.is_file():
        kept = load_answers(file)
        if [answer.id for answer in kept] == [question.id for question in questions]:
            return kept
    with model.disable_adapter():
        scored = score(BASE)
    _write_answers(scored, file)
    return scored.answers


def _write_answers(scored: ScoredAnswers, file: Path) -> None:
    """As JSON lines, and ScienceQA's in its official results format too."""
    if scored.metric == "scienceqa":
        scored.write(file.with_suffix(".json"))
    scored.write(file)


def _train(
    model: peft.PeftModel,
    collator: Collator,
    prepared: PreparedExamples,
    recipe: Recipe,
    output: Path,
    display: Display,
    *,
    resume: bool,
) -> dict[str, Any]:
    settings = recipe.training.model_dump()
    report_to = settings.pop("report_to")
    apart = settings["train_sampling_strategy"] == "group_by_modality"
    if apart:  # a grouping by length of ours, which the Trainer does not know
        settings["train_sampling_strategy"] = "group_by_length"
    checkpoint = find_last_checkpoint(output) if resume else None
    arguments = TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        remove_unused_columns=False,
        disable_tqdm=True,
        save_strategy="steps",
        eval_strategy="no",
        data_seed=recipe.training.seed,
        report_to=[] if report_to == "none" else [report_to],
        run_name=output.name,
        optim="adamw_torch",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=distributed.world_size() > 1
        and not torch.cuda.is_available(),  # else accelerate sees one process on a CPU
        **settings,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # of a process; the Trainer would split batches over all it sees
    progress, interrupt = TrainingProgress(display), _Interrupt()
    trainer = AdapterTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=prepared.examples,
        lengths=prepared.lengths,
        pictured=prepared.pictured if apart else None,
        callbacks=[progress, interrupt],
    )
    trainer.remove_callback(PrinterCallback)
    if distributed.rank():  # the first's dropout is that of a run alone, and no two processes have the same
        set_seed(recipe.training.seed + distributed.rank())
    progress.loss_of = lambda: trainer.last_loss
    begun = time.monotonic()
    try:
        if checkpoint is None or not trainer.take_up(checkpoint):
            with interrupt.listening(), explain_out_of_memory():
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
    if distributed.any_rank(interrupt.asked):  # all have saved, before any ends
        distributed.destroy_process_group()
        raise Interrupted(
            f"Stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; all is saved in {output}. "
            "The same command with --resume goes on from there."
        )
    seconds = time.monotonic() - begun
    logged = trainer.state.log_history[-1]  # of the whole run, where it ended
    return {
        "steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "samples_per_second": round(logged.get("train_samples_per_second", logged.get("samples_per_second", 0.0)), 2),
        "history": [entry for entry in trainer.state.log_history if "loss" in entry],
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


class _Interrupt(Interrupt, TrainerCallback):
    """The first Ctrl-C ends training after the step that runs, with a checkpoint; the second ends it at once."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if distributed.any_rank(self.asked):
            control.should_save = True
            control.should_training_stop = True
