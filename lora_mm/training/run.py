"""The training loop of one run: the Trainer's arguments, resuming, stop signals, and the figures of the run.

Knows the ``training`` section of a recipe; knows no scores and no adapter folder.
"""

import hashlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.integrations import get_available_reporting_integrations

from lora_mm import distributed
from lora_mm.data.collate import Collator, PreparedExamples
from lora_mm.errors import InputError, LoraMMError
from lora_mm.out_of_memory import explain_out_of_memory
from lora_mm.progress import Display, TrainingProgress
from lora_mm.recipe.sections import TrainingSection
from lora_mm.training.callbacks import StopOnInterrupt
from lora_mm.training.checkpoints import read_manifest
from lora_mm.training.order import ORDERS, EpochSampler
from lora_mm.training.trainer import AdapterTrainer
from lora_mm.training.workers import explain_worker_errors

_OURS = {"train_sampling_strategy", "loss_weight"}
"""Settings that the Trainer does not read: it gets our sampler and our loss."""


class Interrupted(LoraMMError):
    """A stop signal during training, after a checkpoint was saved.

    Args:
        message: what was saved, and how to continue.
        exit_code: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def check_logger(name: str) -> None:
    """Raise InputError unless the logger that ``training.report_to`` names is installed."""
    if name not in ("none", *get_available_reporting_integrations()):
        raise InputError(f"training.report_to: {name} is not installed; `pip install {name}`, or set it to none.")


def train(
    model: peft.PeftModel,
    collator: Collator,
    prepared: PreparedExamples,
    settings: TrainingSection,
    checkpoints: Path,
    display: Display,
    *,
    run_name: str,
    recipe: str,
    resume_from: Path | None = None,
) -> dict[str, Any]:
    """Train the parameters of ``model`` that require gradients, in place.

    Args:
        model: the base with its adapters.
        collator: makes batches of examples.
        prepared: the examples, with their lengths and modalities.
        settings: the recipe's ``training`` section.
        checkpoints: folder for checkpoints.
        display: shows progress.
        run_name: name of the run in loggers.
        recipe: hash of the recipe, by which checkpoints are recognized.
        resume_from: the checkpoint to continue from; None starts at step 0.

    Returns:
        JSON values: ``steps``, ``train_seconds`` and ``samples_per_second`` of the whole run, also before it was
        resumed; ``history`` (one entry per log), ``trained_parameters`` and ``peak_gpu_bytes`` (None without a GPU).

    Raises:
        InputError: the examples are not those that the run of ``resume_from`` trains on, or one that was sound before
            can no longer be read.
        LoraMMError: the loss is not finite, a trained tensor gets no gradient, a checkpoint cannot be written, a worker
            process was killed, or the GPU or the machine is out of memory.
        Interrupted: after a stop signal, with a checkpoint saved.
    """
    facts = {"recipe": recipe, "examples": _hash_examples(prepared)}
    manifest = None if resume_from is None else read_manifest(resume_from)
    if manifest is not None and manifest.facts != facts:
        raise InputError(
            f"--resume: the training examples are not those of {resume_from}: the data has changed since. Restore it, "
            "or start a new run with another --output."
        )
    started, before = time.monotonic(), manifest.seconds if manifest else 0.0

    def count_seconds() -> float:
        return before + time.monotonic() - started

    progress, interrupt = TrainingProgress(display), StopOnInterrupt()
    trainer = AdapterTrainer(
        model=model,
        args=_make_arguments(settings, checkpoints, run_name),
        data_collator=collator,
        train_dataset=prepared.examples,
        sampler=_make_sampler(settings, prepared.lengths),
        loss_weight=settings.loss_weight,
        facts=facts,
        count_seconds=count_seconds,
        callbacks=[progress, interrupt],
    )
    trainer.remove_callback(PrinterCallback)
    if distributed.rank():  # rank 0 has the dropout of a single-process run; each other rank has its own
        set_seed(settings.seed + distributed.rank())
    progress.loss_of = lambda: trainer.last_loss
    try:
        if resume_from is None or not trainer.load_finished(resume_from):
            with interrupt.listening(), explain_out_of_memory(), explain_worker_errors():
                trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        progress.close()
    if distributed.any_rank(interrupt.requested):
        distributed.destroy_process_group()  # waits until all ranks have saved
        raise Interrupted(
            f"Stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, checkpoint saved in "
            f"{checkpoints}. Run the same command with --resume to continue.",
            128 + (interrupt.signal or signal.SIGINT),  # another rank received it
        )
    return _collect_figures(trainer, count_seconds())


def _hash_examples(prepared: PreparedExamples) -> str:
    """Hash the lengths of the examples, which decide their order: an edited data set rarely keeps them all."""
    return hashlib.sha256(repr(list(prepared.lengths)).encode()).hexdigest()


def _make_sampler(settings: TrainingSection, lengths: Sequence[int]) -> EpochSampler:
    return EpochSampler(
        ORDERS[settings.train_sampling_strategy],
        lengths,
        batch=settings.per_device_train_batch_size * distributed.world_size(),
        accumulated=settings.gradient_accumulation_steps,
        seed=settings.seed,
    )


def _make_arguments(settings: TrainingSection, checkpoints: Path, run_name: str) -> TrainingArguments:
    values = settings.model_dump(exclude={"report_to", *_OURS})
    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        remove_unused_columns=False,
        disable_tqdm=True,
        save_strategy="steps",
        eval_strategy="no",
        data_seed=settings.seed,
        report_to=[] if settings.report_to == "none" else [settings.report_to],
        run_name=run_name,
        optim="adamw_torch",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_pin_memory=gpu,
        use_cpu=distributed.world_size() > 1 and not gpu,  # otherwise accelerate sees one process on a CPU
        **values,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # otherwise the Trainer splits batches over all visible GPUs
    return arguments


def _collect_figures(trainer: AdapterTrainer, seconds: float) -> dict[str, Any]:
    args = trainer.args
    samples = trainer.state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {
        "steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "samples_per_second": round(samples / seconds, 2),
        "history": [entry for entry in trainer.state.log_history if "loss" in entry],
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
