"""Trains the pocket base from scratch. Run it from a checkout; it takes about an hour and a half on two CPU cores.

    python -m tools.pocket_pretraining.pretrain --output DIR [--seed 0] [--steps N] [--threads 2]

The curves go to ``DIR.curves.csv``: one row for each evaluation, one column for each kind of held-out sample.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lora_mm.pocket.scenes import SCENES
from tools.pocket_pretraining.curriculum import CURVES, iterate_batches, make_held_out, make_texts
from tools.pocket_pretraining.learner import Learner, load_pixels
from tools.pocket_pretraining.lessons import FieldHeads
from tools.pocket_pretraining.samples import Sample
from tools.pocket_pretraining.shape import make_model, make_processor, make_tokenizer

STEPS = 3400


def train_tower(
    model: LlavaForConditionalGeneration,
    fields: FieldHeads,
    seed: int,
    *,
    steps: int = 1400,
    rate: float = 3e-3,
    is_trained: bool = False,
) -> None:
    """Train the vision tower and the connector to name the fields of pictures, before the language model is trained.

    Args:
        model: the base.
        fields: the heads to train with it.
        seed: seed of the pictures.
        steps: number of steps of 128 pictures.
        rate: learning rate.
        is_trained: whether the tower is trained already; then only the heads train.
    """
    rng = Random(f"tower {seed}")
    tower = [model.model.vision_tower, model.model.multi_modal_projector]
    trainable = nn.ModuleList([fields] if is_trained else [*tower, fields])
    optimizers = make_optimizers(trainable, rate)
    for step in range(1, steps + 1):
        scenes = [rng.choice(SCENES).random(rng) for _ in range(128)]
        with torch.autocast("cpu", torch.bfloat16):
            pictures = load_pixels([Sample("tower", [], scene.draw()) for scene in scenes])
            with torch.set_grad_enabled(not is_trained):
                tokens = model.model.get_image_features(pixel_values=pictures).pooler_output
            loss, right = fields(torch.stack(list(tokens)), scenes)
        (loss / len(scenes)).backward()
        _step(trainable, optimizers, rate * learning_rate_factor(step - 1, steps))
        if step % 100 == 0:
            print("tower", step, f"{sum(right) / len(right):.3f}", sep="\t", flush=True)


def _step(model: nn.Module, optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Take one step of every optimizer at learning rate ``rate``."""
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def make_optimizers(model: nn.Module, rate: float, decay: float = 0.02) -> list[torch.optim.Optimizer]:
    """Make the optimizers: Muon for the matrices inside the layers, AdamW for everything else.

    Args:
        model: the modules that train.
        rate: learning rate.
        decay: Muon's weight decay.
    """
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (inner if parameter.ndim == 2 and ".layers." in name else outer).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]
    if inner:
        optimizers.append(torch.optim.Muon(inner, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def learning_rate_factor(step: int, steps: int, first: int = 0, warmup: int = 40) -> float:
    """Compute the factor of the learning rate: linear warm-up, flat, then linear to a twentieth over the last quarter.

    Args:
        step: index of the step.
        steps: number of steps.
        first: index of the first step of this run.
        warmup: steps of warm-up.
    """
    return min(1.0, (step - first + 1) / warmup, 0.05 + 0.95 * (steps - step) / (0.25 * steps))


def save(learner: Learner, output: Path) -> None:
    """Write the base in bfloat16.

    Args:
        learner: holds the base and its tokenizer.
        output: folder of the base; an existing one is replaced at the end.
    """
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    copy = make_model(learner.tokenizer)
    copy.load_state_dict(learner.model.state_dict())
    copy.bfloat16().save_pretrained(fresh)
    make_processor(learner.tokenizer).save_pretrained(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)
    if output.exists():
        old = output.with_name(output.name + ".old")
        os.rename(output, old)
        os.rename(fresh, output)
        shutil.rmtree(old)
    else:
        os.rename(fresh, output)


def make_learner(seed: int, saved: Path | None) -> tuple[Learner, FieldHeads]:
    """Make the untrained base, or load a saved one, with its tokenizer and the heads of the vision tower's lessons.

    Args:
        seed: seed of the tokenizer's texts and of the heads' classes.
        saved: folder of a saved base; None for an untrained one.
    """
    tokenizer = AutoTokenizer.from_pretrained(saved) if saved else make_tokenizer(make_texts(seed))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    model = make_model(tokenizer)
    fields = FieldHeads(model.lm_head.in_features, seed)
    if saved:
        model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(saved).state_dict())
    model.set_attn_implementation("eager")  # the fused kernel's backward pass is twice as slow on a CPU
    model.train()
    return Learner(model, tokenizer, fields), fields


def pretrain(
    output: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    rate: float = 2e-3,
    resume: tuple[Path, int] | None = None,
    score_every: int = 50,
    save_every: int = 100,
) -> None:
    """Train the base and save it.

    Args:
        output: folder of the base; the curves go to ``output.curves.csv``.
        seed: seed of the run.
        steps: number of steps of the curriculum.
        rate: learning rate.
        resume: folder and step of a saved base to continue from; the state of the optimizers starts anew.
        score_every: steps between two scores of held-out samples.
        save_every: steps between two saves.
    """
    torch.manual_seed(seed)
    learner, fields = make_learner(seed, resume[0] if resume else None)
    first = resume[1] if resume else 0
    if resume:
        train_tower(learner.model, fields, seed, steps=200, rate=1e-2, is_trained=True)
    else:
        train_tower(learner.model, fields, seed)
    trainable = nn.ModuleList([learner.model, fields])
    optimizers = make_optimizers(trainable, rate)
    tests = make_held_out(seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    start, losses = time.monotonic(), []
    with output.with_name(output.name + ".curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("step", "minutes", "stage", "loss", *CURVES))
        for step, (stage, samples) in enumerate(iterate_batches(seed, steps), start=1):
            if step <= first:
                continue
            losses.append(learner.backward(samples))
            _step(trainable, optimizers, rate * learning_rate_factor(step - 1, steps, first))
            if step % score_every == 0 or step == steps:
                scores = learner.score(tests)
                minutes = (time.monotonic() - start) / 60
                numbers = (float(np.mean(losses[-score_every:])), *(scores[curve] for curve in CURVES))
                row = (step, f"{minutes:.1f}", stage, *(f"{number:.3f}" for number in numbers))
                table.writerow(row)
                file.flush()
                print(*row, sep="\t", flush=True)
            if step % save_every == 0:
                save(learner, output)
    save(learner, output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pocket_pretraining.pretrain", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the new base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", type=Path, help="a base that an earlier run saved; needs --from-step")
    parser.add_argument("--from-step", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    resume = (options.resume, options.from_step) if options.resume else None
    pretrain(options.output, seed=options.seed, steps=options.steps, rate=options.rate, resume=resume)


if __name__ == "__main__":
    main()
