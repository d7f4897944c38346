"""Compares orders of the training examples: padding, likeness of neighbouring steps, and what the pocket base learns.

    python benchmarks/order.py lengths [--scienceqa FOLDER]
    python benchmarks/order.py train --steps 600 --seeds 0 1 2 [--orders NAME …] [--set KEY=VALUE]

``lengths`` orders the lengths of a recipe's examples and, with ``--scienceqa``, those of real problems as LLaVA-1.5
reads them: a token for four characters, and 576 for a picture. ``train`` runs ``scienceqa-pocket`` with each order, a
process with one thread for each run, as many as there are cores. Both append to ``benchmarks/results/order.md``.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import measure
import torch
from rich.console import Console
from torch import Generator

from lora_mm.data.scienceqa import load_problems, to_example
from lora_mm.data.splits import load_train_and_test
from lora_mm.jobs import finetune as job
from lora_mm.jobs.session import load_recipe_base, make_base_collator
from lora_mm.recipe.load import load_recipe
from lora_mm.training.order import ORDERS, Order, stratify_by_length

RECIPE = "scienceqa-pocket"
PICTURE_TOKENS = 576


def shuffle_batches(order: Order) -> Order:
    """Make an order that shuffles the whole batches of another one."""

    def shuffled(lengths: Sequence[int], batch: int, accumulated: int, generator: Generator) -> list[int]:
        ordered = order(lengths, batch, accumulated, generator)
        whole = len(ordered) // batch
        batches = [ordered[number * batch : (number + 1) * batch] for number in range(whole)]
        positions = torch.randperm(whole, generator=generator).tolist()
        return [index for position in positions for index in batches[position]] + ordered[whole * batch :]

    return shuffled


def group_by_modality(lengths: Sequence[int], batch: int, accumulated: int, generator: Generator) -> list[int]:
    """Group the longer and the shorter half by length, in whole batches that are shuffled (LLaVA-1.5's order).

    In the pocket world half of the problems have pictures, and these are the longer ones.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    halves = by_length[: len(by_length) // 2], by_length[len(by_length) // 2 :]
    ordered = [
        half[index]
        for half in halves
        for index in ORDERS["group_by_length"]([lengths[i] for i in half], batch, accumulated, generator)
    ]
    return shuffle_batches(lambda *_: ordered)(lengths, batch, accumulated, generator)


def sort_windows(lengths: Sequence[int], batch: int, accumulated: int, generator: Generator) -> list[int]:
    """Sort a random order by length within windows of 4 batches."""
    order = ORDERS["random"](lengths, batch, accumulated, generator)
    return [
        index
        for start in range(0, len(order), 4 * batch)
        for index in sorted(order[start : start + 4 * batch], key=lambda index: -lengths[index])
    ]


def with_pool(pool: int) -> Order:
    """Make the stratified order with pools of ``pool`` steps."""
    return lambda lengths, batch, accumulated, generator: stratify_by_length(
        lengths, batch, accumulated, generator, pool
    )


@dataclass(frozen=True)
class Candidate:
    """An order, and how its steps are cut.

    Attributes:
        order: the order.
        accumulated: batches per optimizer step; all candidates have equally many examples per step.
    """

    order: Order
    accumulated: int = 1


CANDIDATES = {
    "group_by_length": Candidate(ORDERS["group_by_length"]),
    "group_by_modality": Candidate(group_by_modality),
    "group_by_length, batches shuffled": Candidate(shuffle_batches(ORDERS["group_by_length"])),
    "random": Candidate(ORDERS["random"]),
    "windows of 4 batches, batches shuffled": Candidate(shuffle_batches(sort_windows)),
    "stratified, 1 batch a step": Candidate(ORDERS["stratified"]),
    "stratified, 2 batches a step": Candidate(ORDERS["stratified"], 2),
}
"""Row of the table of ``train`` → its order."""


def measure_order(order: Order, lengths: Sequence[int], batch: int, accumulated: int) -> tuple[float, float, float]:
    """Measure one epoch.

    Returns:
        The share of padding in the batches; the correlation of the mean lengths of neighbouring steps; and the standard
        deviation of these means, as a share of the mean length.
    """
    ordered = [lengths[index] for index in order(lengths, batch, accumulated, Generator().manual_seed(0))]
    padded = sum(max(part) * len(part) for part in _cut(ordered, batch))
    steps = torch.tensor([fmean(part) for part in _cut(ordered, batch * accumulated)[:-1]])
    correlation = torch.corrcoef(torch.stack([steps[:-1], steps[1:]]))[0, 1].item()
    return 1 - sum(ordered) / padded, correlation, (steps.std() / steps.mean()).item()


def _cut(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def tabulate_lengths(lengths: Sequence[int], batch: int, accumulated: int) -> str:
    """Tabulate every order on some lengths, and the stratified one with pools of several sizes.

    Args:
        lengths: number of tokens of each example.
        batch: examples per batch.
        accumulated: batches per optimizer step.
    """
    orders: dict[str, Order] = {name: item.order for name, item in CANDIDATES.items() if item.accumulated == 1}
    del orders["stratified, 1 batch a step"]
    orders |= {f"stratified, pools of {pool} steps": with_pool(pool) for pool in (1, 2, 4, 8, 16)}
    rows = []
    for name, order in orders.items():
        padding, correlation, spread = measure_order(order, lengths, batch, accumulated)
        rows.append([name, f"{padding:.1%}", f"{correlation:.2f}", f"{spread:.1%}"])
    return measure.table(["order", "padding", "correlation of neighbours", "spread of the steps' mean length"], rows)


def prepare_lengths(recipe: str) -> list[int]:
    """Compute the number of tokens of each training example of a recipe.

    Args:
        recipe: name of the recipe.
    """
    loaded = load_recipe(recipe)
    collator = make_base_collator(loaded, load_recipe_base(loaded, weights=False))
    train, _ = load_train_and_test(loaded)
    return list(collator.prepare(train.examples, loaded.data.overlong, loaded.data.faulty_rows).lengths)


def estimate_scienceqa_lengths(folder: Path) -> list[int]:
    """Estimate the number of tokens of real problems with LLaVA-1.5: a token for 4 characters, and 576 for a picture.

    Args:
        folder: the official ScienceQA folder.
    """
    problems = load_problems(folder, "train", missing_images="text", pictures=False).problems
    texts = [to_example(problem) for problem in problems]
    return [
        (len(text.prompt) + len(text.target)) // 4 + PICTURE_TOKENS * problem.has_image
        for problem, text in zip(problems, texts, strict=True)
    ] * 10  # the sample is small: as many examples as train has


def run_once(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Train with an order in this process.

    Args:
        name: a row of :data:`CANDIDATES`. Its order takes the place of ``random``.
        settings: ``key=value`` settings.
    """
    candidate = CANDIDATES[name]
    ORDERS["random"] = candidate.order
    recipe = load_recipe(RECIPE, [*settings, "training.train_sampling_strategy=random", "evaluation.base=false"])
    size = recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps
    recipe.training.gradient_accumulation_steps = candidate.accumulated
    recipe.training.per_device_train_batch_size = size // candidate.accumulated
    seconds = 0.0

    def train(*positional: Any, **named: Any) -> dict[str, Any]:
        nonlocal seconds
        started = time.process_time()  # not what other processes take
        figures = train_untimed(*positional, **named)
        seconds = time.process_time() - started
        return figures

    train_untimed, job.train = job.train, train
    with tempfile.TemporaryDirectory() as folder:
        result = job.finetune(recipe, Path(folder) / "run", Console(file=io.StringIO()))
    assert result is not None
    columns = {column: tally.accuracy for column, tally in result.scores["adapter"].columns.items()}
    rate = result.figures["steps"] * size / seconds
    return {"AVG": columns["AVG"], "lowest": min(columns.values()), "rate": rate}


def run_all(names: Sequence[str], seeds: Sequence[int], steps: int, settings: Sequence[str]) -> str:
    """Train with every order and seed, one process with one thread each, and tabulate the scores.

    Args:
        names: rows of :data:`CANDIDATES`.
        seeds: random seeds.
        steps: number of optimizer steps.
        settings: ``key=value`` settings for all runs.
    """

    def start(job: tuple[str, int]) -> dict[str, Any]:
        name, seed = job
        command = [sys.executable, __file__, "once", name, f"training.seed={seed}", f"training.max_steps={steps}"]
        done = subprocess.run(
            [*command, *settings], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True
        )
        result = dict(json.loads(done.stdout.splitlines()[-1]))
        print(f"{name}, seed {seed}: {result['AVG']:.2f}", file=sys.stderr, flush=True)
        return result

    jobs = [(name, seed) for name in names for seed in seeds]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(start, jobs))
    rows = []
    for name in names:
        runs = [result for (ran, _), result in zip(jobs, results, strict=True) if ran == name]
        scores = ", ".join(f"{run['AVG']:.1f}" for run in runs)
        mean, lowest = (fmean(run[key] for run in runs) for key in ("AVG", "lowest"))
        rate = fmean(run["rate"] for run in runs)
        rows.append([name, f"{mean:.1f}", scores, f"{lowest:.1f}", f"{rate:.0f}"])
    return measure.table(["order", "AVG", "of each seed", "lowest column", "samples/s"], rows)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_lengths = verbs.add_parser("lengths")
    of_lengths.add_argument("--scienceqa", type=Path)
    of_training = verbs.add_parser("train")
    of_training.add_argument("--orders", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    of_training.add_argument("--steps", type=int, default=600)
    of_training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    of_training.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    once = verbs.add_parser("once", help="one run of `train`, in this process")
    once.add_argument("order")
    once.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    words = ["FOLDER" if before == "--scienceqa" else word for before, word in pairwise(sys.argv)]
    command = f"python benchmarks/order.py {shlex.join(words)}"

    if arguments.verb == "once":
        with contextlib.redirect_stdout(sys.stderr):
            result = run_once(arguments.order, arguments.settings)
        print(json.dumps(result))
    elif arguments.verb == "train":
        text = run_all(arguments.orders, arguments.seeds, arguments.steps, arguments.set)
        title = f"What the pocket base learns in {arguments.steps} steps, seeds {arguments.seeds}"
        measure.append("order", title, command, text)
    else:
        text = tabulate_lengths(prepare_lengths(RECIPE), 8, 2)
        measure.append("order", f"Lengths of `{RECIPE}`, in batches of 8, accumulated 2 times", command, text)
        if arguments.scienceqa:
            text = tabulate_lengths(estimate_scienceqa_lengths(arguments.scienceqa), 4, 8)
            measure.append("order", "Lengths of ScienceQA, in batches of 4, accumulated 8 times", command, text)


if __name__ == "__main__":
    main()
