"""Memory and work of a recipe's training before it runs: without the base's weights, on its own largest examples.

Knows recipes, models and data. Knows no card: how fast one is, and what its libraries take, are given or assumed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import psutil
import torch
from rich.table import Table

from lora_mm.adapters.attach import attach
from lora_mm.data.collate import Collator, PreparedExamples
from lora_mm.data.splits import load_train_and_test
from lora_mm.errors import InputError, truncate_faults
from lora_mm.jobs.session import check_sources, load_recipe_base, make_base_collator
from lora_mm.models.loading import Base
from lora_mm.models.memory import measure_memory
from lora_mm.recipe.sections import Recipe, TrainingSection
from lora_mm.training.memory import CannotEstimateError, StepUsage, measure_step

GIB = 2**30
ASSUMED = 0.8 * GIB
"""Bytes for CUDA's context, its libraries' workspaces and what its allocator cannot use; not measured on a card yet."""


@dataclass(frozen=True)
class BatchOption:
    """One way to take the recipe's steps, which all learn from equally many examples.

    Attributes:
        step: bytes of the largest batch's activations, gradients and temporary results.
        flops: of the whole training.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    step: int
    flops: float

    @property
    def settings(self) -> str:
        """As ``--set`` takes them."""
        keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
        return " ".join(f"--set training.{key}={str(getattr(self, key)).lower()}" for key in keys)


@dataclass(frozen=True)
class RunPlan:
    """What training takes.

    Attributes:
        parts: part → bytes of its weights, the adapters' in it included.
        trained: parameters that train.
        optimizer: bytes of AdamW's states.
        tokens, pictures: of the largest batch: tokens of its longest row, and rows with pictures.
        ways: the recipe's own first, then others.
    """

    parts: dict[str, int]
    trained: int
    optimizer: int
    examples: int
    steps: int
    tokens: int
    pictures: int
    ways: tuple[BatchOption, ...]

    def needed(self, way: BatchOption) -> float:
        """Bytes in all, with what is assumed for CUDA."""
        return sum(self.parts.values()) + self.optimizer + way.step + ASSUMED

    def first_within(self, memory: float) -> BatchOption | None:
        """The recipe's own way, if ``memory`` bytes hold it, or the one with the least work that they hold."""
        fitting = [way for way in self.ways if self.needed(way) <= memory]
        return self.ways[0] if self.ways[0] in fitting else min(fitting, key=lambda way: way.flops, default=None)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        ways = [asdict(way) | {"needed": self.needed(way)} for way in self.ways]
        return asdict(self) | {"ways": ways, "assumed": ASSUMED}


def get_device_memory() -> float:
    """Bytes of this machine's GPU; of a card of 24 GB where there is none."""
    return (
        torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        if torch.cuda.is_available()
        else 24.0 * GIB
    )


def make_needs_table(plan: RunPlan) -> Table:
    """What the recipe's own way takes, by what takes it."""
    own = plan.ways[0]
    batch = f"{own.per_device_train_batch_size} examples of {plan.tokens:,} tokens, {plan.pictures} with pictures"
    rows: list[tuple[str, float, str]] = [(f"weights: {part}", size, "") for part, size in plan.parts.items()]
    rows += [
        ("optimiser", plan.optimizer, f"{plan.trained:,} parameters train"),
        ("activations, gradients", own.step, f"at most, in a batch of {batch}"),
        ("CUDA and its libraries", ASSUMED, "assumed"),
        ("in all", plan.needed(own), ""),
    ]
    table = Table(title="Memory", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "GiB", ""):
        table.add_column(column, justify="right" if column else "left")
    for name, size, remark in rows:
        table.add_row(name, f"{size / GIB:.2f}", remark)
    return table


def make_ways_table(plan: RunPlan, memory: float, speed: float) -> Table:
    """The ways to take the same steps; ``speed`` in operations a second."""
    table = Table(title="Ways to take the same steps", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("at once", "batches", "checkpointing", "GiB", "PFLOP", "hours", ""):
        table.add_column(column, justify="right" if column else "left")
    for number, way in enumerate(plan.ways):
        needed = plan.needed(way)
        table.add_row(
            str(way.per_device_train_batch_size),
            str(way.gradient_accumulation_steps),
            "yes" if way.gradient_checkpointing else "no",
            f"{needed / GIB:.1f}",
            f"{way.flops / 1e15:,.2f}",
            f"{way.flops / speed / 3600:,.1f}",
            ("" if needed <= memory else "does not fit") + (" (the recipe)" if not number else ""),
        )
    return table


def format_verdict(plan: RunPlan, memory: float) -> str:
    """Whether it fits and, where not, what does; or what would save work."""
    best, own = plan.first_within(memory), plan.ways[0]
    card = f"{memory / GIB:.1f} GiB"
    if best is own:
        quicker = min((way for way in plan.ways if plan.needed(way) <= memory), key=lambda way: way.flops)
        saved = 1 - quicker.flops / own.flops
        hint = f" With {quicker.settings} it would compute {saved:.0%} less." if saved > 0.05 else ""
        return f"Fits in {card}.{hint}"
    if best is not None:
        return f"Does not fit in {card}. This does: {best.settings}"
    return (
        f"Does not fit in {card}, nor do its neighbours. Take base.quantization=nf4, a smaller data.max_length, "
        "smaller pictures, or a smaller base."
    )


def plan_run(recipe: Recipe) -> RunPlan:
    """What ``recipe`` takes to train on a card, by one process, and other ways to take its steps.

    Raises:
        InputError: for anything in recipe or data that cannot be used.
        Unforeseen: for a base that cannot run without its weights.
    """
    check_sources(recipe)
    train, _ = load_train_and_test(recipe)
    base = load_recipe_base(recipe, weights=False)
    collator = make_base_collator(recipe, base)
    prepared = collator.prepare(train.examples, recipe.data.overlong, recipe.data.faulty_rows)
    if not len(prepared.examples):
        raise InputError("No example is left to train on.", *truncate_faults(prepared.faults))
    trial = _Trial(recipe, base, collator, prepared)
    settings = recipe.training
    most, order = trial.largest()
    usual = trial.use(_usual(prepared, settings), settings.per_device_train_batch_size, trial.checkpointing)
    steps = _steps(settings, len(prepared.examples))
    ways: list[BatchOption] = []
    for size, accumulation, checkpointing in _ways(settings):
        use = trial.use(order, size, checkpointing) if ways else most  # the first is the recipe's own
        flops = usual.flops * steps * accumulation * (use.flops / most.flops)
        ways.append(BatchOption(size, accumulation, checkpointing, use.peak, flops))
    largest = list(islice(cycle(order), settings.per_device_train_batch_size))
    return RunPlan(
        parts=trial.parts,
        trained=sum(parameter.numel() for parameter in trial.model.parameters() if parameter.requires_grad),
        optimizer=most.optimizer,
        examples=len(prepared.examples),
        steps=steps,
        tokens=prepared.lengths[largest[0]],
        pictures=sum(prepared.pictured[number] for number in largest),
        ways=tuple(ways),
    )


def format_estimate(recipe: Recipe, collator: Collator, prepared: PreparedExamples, memory: float | None = None) -> str:
    """Whether what is about to train fits ``memory`` bytes, by default this machine's, in a line."""
    card = torch.cuda.is_available()
    if memory is None:
        memory = get_device_memory() if card else psutil.virtual_memory().total
    trial = _Trial(recipe, load_recipe_base(recipe, weights=False), collator, prepared)
    try:
        use, _ = trial.largest()
    except CannotEstimateError as error:
        return f"What training takes is not told: {error}"
    needed = sum(trial.parts.values()) + use.optimizer + use.peak + (ASSUMED if card else 0)
    line = f"Training takes some {needed / GIB:.1f} of {memory / GIB:.1f} GiB"
    return f"{line}." if needed <= memory else f"Warning: {line}. `lora-mm plan` names settings that take less."


class _Trial:
    """A recipe's model without weights, and steps that it takes.

    Attributes:
        parts: part → bytes of its weights.
        checkpointing: as the recipe has it.
    """

    def __init__(self, recipe: Recipe, base: Base, collator: Collator, prepared: PreparedExamples) -> None:
        with torch.device("meta"):
            self.model = attach(base.model, recipe.adapters, train=recipe.train)
        self.parts = {part: size for part, (_, _, size) in measure_memory(self.model).items()}
        self.checkpointing = recipe.training.gradient_checkpointing
        self._size = recipe.training.per_device_train_batch_size
        self._collator, self._prepared = collator, prepared

    def use(self, order: Sequence[int], size: int, checkpointing: bool) -> StepUsage:
        """Of a step on the first ``size`` examples of ``order``, which begins anew where it ends."""
        batch = self._collator([self._prepared.examples[number] for number in islice(cycle(order), size)])
        return measure_step(self.model, batch, gradient_checkpointing=checkpointing)

    def largest(self) -> tuple[StepUsage, list[int]]:
        """Of a step as the recipe takes it on the batch that takes most, and the order that begins with it."""
        orders = _orders(self._prepared)
        uses = [(self.use(order, self._size, self.checkpointing), order) for order in orders]
        return max(uses, key=lambda found: found[0].peak)


def _steps(settings: TrainingSection, examples: int) -> int:
    if settings.max_steps > 0:
        return settings.max_steps
    batches = math.ceil(examples / settings.per_device_train_batch_size)
    return math.ceil(math.ceil(batches / settings.gradient_accumulation_steps) * settings.num_train_epochs)


def _ways(settings: TrainingSection) -> Iterator[tuple[int, int, bool]]:
    """Examples at once, batches a step and checkpointing: the recipe's own, then its neighbours."""
    size, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    sizes = [(size, accumulation)]
    sizes += [(size // 2, accumulation * 2)] if size % 2 == 0 else []
    sizes += [(size * 2, accumulation // 2)] if accumulation % 2 == 0 else []
    own = settings.gradient_checkpointing
    yield from ((*pair, own) for pair in sizes)
    yield from ((*pair, not own) for pair in sizes)


def _orders(prepared: PreparedExamples) -> list[list[int]]:
    """Numbers of the examples, the longest first; and of those with pictures, if they are others."""
    by_length = sorted(range(len(prepared.lengths)), key=lambda number: (-prepared.lengths[number], number))
    pictured = [number for number in by_length if prepared.pictured[number]]
    return [by_length, pictured] if pictured and pictured != by_length else [by_length]


def _usual(prepared: PreparedExamples, settings: TrainingSection) -> list[int]:
    """A batch as most are: of like length near the mean where batches are grouped by length, else of all lengths."""
    lengths, size = np.asarray(prepared.lengths), settings.per_device_train_batch_size
    if settings.train_sampling_strategy.startswith("group_by"):
        order = np.argsort(np.abs(lengths - lengths.mean()), kind="stable")[:size]
    else:
        order = np.argsort(lengths, kind="stable")[((np.arange(size) + 0.5) / size * len(lengths)).astype(int)]
    return [int(number) for number in order]
