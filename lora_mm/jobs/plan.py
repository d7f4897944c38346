"""Estimates memory and compute of a recipe's training, without the base's weights, on its own largest examples.

Knows recipes, models and data. The speed of the GPU is given; the memory of CUDA's libraries is assumed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from statistics import fmean
from typing import Any

import psutil
import torch
from rich.table import Table

from lora_mm.adapters.attach import attach
from lora_mm.data.collate import Collator, PreparedExamples
from lora_mm.data.splits import load_train_and_test
from lora_mm.errors import InputError, truncate_faults
from lora_mm.jobs.session import check_sources, load_recipe_base, make_base_collator
from lora_mm.models.loading import Base
from lora_mm.models.memory import describe_quantization, measure_memory
from lora_mm.recipe.sections import Recipe, TrainingSection
from lora_mm.training.memory import CannotEstimateError, StepUsage, measure_step
from lora_mm.training.order import ORDERS

GIB = 2**30
CUDA_OVERHEAD = 0.8 * GIB
"""Bytes assumed for CUDA's context, its libraries' workspaces and fragmentation; not measured on a GPU yet."""


@dataclass(frozen=True)
class BatchOption:
    """Settings that split an optimizer step into batches; all options of a plan train on equally many examples.

    Attributes:
        per_device_train_batch_size: examples per batch.
        gradient_accumulation_steps: batches per optimizer step.
        gradient_checkpointing: whether to recompute activations in the backward pass.
        step: peak bytes of activations, gradients and temporary results, with the largest batch.
        flops: floating-point operations of the whole training.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    step: int
    flops: float

    @property
    def settings(self) -> str:
        """The option as ``--set`` arguments."""
        keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
        return " ".join(f"--set training.{key}={str(getattr(self, key)).lower()}" for key in keys)


@dataclass(frozen=True)
class RunPlan:
    """What a recipe's training needs.

    Attributes:
        parts: part → bytes of its weights, including adapters.
        quantization: which share of the base is quantised, in words; None if it is not.
        trained: number of parameters that train.
        optimizer: bytes of AdamW's states.
        examples: number of training examples.
        steps: number of optimizer steps.
        tokens: number of tokens of the longest row in the largest batch.
        pictures: number of rows with pictures in the largest batch.
        options: the recipe's own settings first, then alternatives.
    """

    parts: dict[str, int]
    quantization: str | None
    trained: int
    optimizer: int
    examples: int
    steps: int
    tokens: int
    pictures: int
    options: tuple[BatchOption, ...]

    def estimate_memory(self, option: BatchOption) -> float:
        """Sum the bytes that ``option`` needs, including :data:`CUDA_OVERHEAD`."""
        return sum(self.parts.values()) + self.optimizer + option.step + CUDA_OVERHEAD

    def find_option_within(self, memory: float) -> BatchOption | None:
        """Return the recipe's settings if they fit in ``memory`` bytes, else the cheapest option that fits, or None."""
        fitting = [option for option in self.options if self.estimate_memory(option) <= memory]
        default = self.options[0]
        return default if default in fitting else min(fitting, key=lambda option: option.flops, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values, for ``--json``."""
        options = [asdict(option) | {"needed": self.estimate_memory(option)} for option in self.options]
        return asdict(self) | {"options": options, "assumed": CUDA_OVERHEAD}


def get_device_memory() -> float:
    """Return the bytes of this machine's GPU; 24 GiB if it has none."""
    if not torch.cuda.is_available():
        return 24.0 * GIB
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def make_memory_table(plan: RunPlan) -> Table:
    """Make a table of the memory that the recipe's settings need."""
    option = plan.options[0]
    batch = f"{option.per_device_train_batch_size} examples of {plan.tokens:,} tokens, {plan.pictures} with pictures"
    rows: list[tuple[str, float, str]] = [(f"weights: {part}", size, "") for part, size in plan.parts.items()]
    rows += [
        ("optimizer", plan.optimizer, f"{plan.trained:,} trained parameters"),
        ("activations, gradients", option.step, f"peak, in a batch of {batch}"),
        ("CUDA and its libraries", CUDA_OVERHEAD, "assumed"),
        ("total", plan.estimate_memory(option), ""),
    ]
    table = Table(title="Memory", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "GiB", ""):
        table.add_column(column, justify="right" if column else "left")
    for name, size, remark in rows:
        table.add_row(name, f"{size / GIB:.2f}", remark)
    return table


def make_options_table(plan: RunPlan, memory: float, speed: float) -> Table:
    """Make a table of the options, each with its memory, compute and time.

    Args:
        plan: the plan.
        memory: memory of the GPU in bytes.
        speed: floating-point operations per second of the GPU.
    """
    table = Table(title="Batch options for the same steps", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("batch size", "accumulation", "checkpointing", "GiB", "PFLOP", "hours", ""):
        table.add_column(column, justify="right" if column else "left")
    for number, option in enumerate(plan.options):
        needed = plan.estimate_memory(option)
        table.add_row(
            str(option.per_device_train_batch_size),
            str(option.gradient_accumulation_steps),
            "yes" if option.gradient_checkpointing else "no",
            f"{needed / GIB:.1f}",
            f"{option.flops / 1e15:,.2f}",
            f"{option.flops / speed / 3600:,.1f}",
            ("" if needed <= memory else "does not fit") + (" (the recipe)" if not number else ""),
        )
    return table


def format_verdict(plan: RunPlan, memory: float) -> str:
    """Say whether the recipe fits; if not, which option fits; if so, which option computes clearly less.

    Args:
        plan: the plan.
        memory: memory of the GPU in bytes.
    """
    best, default = plan.find_option_within(memory), plan.options[0]
    size = f"{memory / GIB:.1f} GiB"
    if best is None:
        return (
            f"No option fits in {size}. Set base.quantization=nf4 or a smaller "
            "data.max_length, or use smaller pictures or a smaller base."
        )
    if best is not default:
        return f"Does not fit in {size}. This fits: {best.settings}"
    fitting = (option for option in plan.options if plan.estimate_memory(option) <= memory)
    cheapest = min(fitting, key=lambda option: option.flops)
    saved = 1 - cheapest.flops / default.flops
    hint = f" With {cheapest.settings} it computes {saved:.0%} less." if saved > 0.05 else ""
    return f"Fits in {size}.{hint}"


def plan_run(recipe: Recipe) -> RunPlan:
    """Estimate what training ``recipe`` in one process on one GPU needs, with its own and with other batch sizes.

    Returns:
        The plan, with the recipe's settings as the first option.

    Raises:
        InputError: recipe or data cannot be used.
        CannotEstimateError: the base cannot run without its weights.
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
    largest, order = trial.measure_largest()
    typical = [
        trial.measure(batch, settings.per_device_train_batch_size, trial.checkpointing).flops
        for batch in _choose_typical_batches(prepared, settings)
    ]
    steps = _count_steps(settings, len(prepared.examples))
    options: list[BatchOption] = []
    for size, accumulation, checkpointing in _list_settings(settings):
        usage = trial.measure(order, size, checkpointing) if options else largest  # the first is the recipe's
        flops = fmean(typical) * steps * accumulation * (usage.flops / largest.flops)
        options.append(BatchOption(size, accumulation, checkpointing, usage.peak, flops))
    batch = list(islice(cycle(order), settings.per_device_train_batch_size))
    return RunPlan(
        parts=trial.parts,
        quantization=describe_quantization(trial.model),
        trained=sum(parameter.numel() for parameter in trial.model.parameters() if parameter.requires_grad),
        optimizer=largest.optimizer,
        examples=len(prepared.examples),
        steps=steps,
        tokens=prepared.lengths[batch[0]],
        pictures=sum(prepared.pictured[number] for number in batch),
        options=tuple(options),
    )


def format_estimate(recipe: Recipe, collator: Collator, prepared: PreparedExamples, memory: float | None = None) -> str:
    """Write one line with the estimated memory of training, with a warning if it does not fit.

    Args:
        recipe: the recipe to train.
        collator: its collator.
        prepared: its training examples.
        memory: available bytes; by default those of this machine's GPU, or its main memory if it has no GPU.
    """
    gpu = torch.cuda.is_available()
    if memory is None:
        memory = get_device_memory() if gpu else psutil.virtual_memory().total
    trial = _Trial(recipe, load_recipe_base(recipe, weights=False), collator, prepared)
    try:
        usage, _ = trial.measure_largest()
    except CannotEstimateError as error:
        return f"Cannot estimate memory: {error}"
    quantization = describe_quantization(trial.model)
    needed = sum(trial.parts.values()) + usage.optimizer + usage.peak + (CUDA_OVERHEAD if gpu else 0)
    line = f"Training needs about {needed / GIB:.1f} of {memory / GIB:.1f} GiB"
    line = f"{line}." if needed <= memory else f"Warning: {line}. `lora-mm plan` shows settings that need less."
    return line if quantization is None else f"{quantization}\n{line}"


class _Trial:
    """A recipe's model without weights, to measure training steps on.

    Attributes:
        model: the base with its adapters, on ``meta``.
        parts: part → bytes of its weights.
        checkpointing: the recipe's ``training.gradient_checkpointing``.
    """

    def __init__(self, recipe: Recipe, base: Base, collator: Collator, prepared: PreparedExamples) -> None:
        with torch.device("meta"):
            self.model = attach(base.model, recipe.adapters, train=recipe.train)
        self.parts = {part: size for part, (_, _, size) in measure_memory(self.model).items()}
        self.checkpointing = recipe.training.gradient_checkpointing
        self._size = recipe.training.per_device_train_batch_size
        self._collator, self._prepared = collator, prepared

    def measure(self, order: Sequence[int], size: int, checkpointing: bool) -> StepUsage:
        """Measure a step on the first ``size`` examples of ``order``, which is repeated if it is shorter."""
        batch = self._collator([self._prepared.examples[number] for number in islice(cycle(order), size)])
        return measure_step(self.model, batch, gradient_checkpointing=checkpointing)

    def measure_largest(self) -> tuple[StepUsage, list[int]]:
        """Measure a step with the recipe's settings on its largest batch; also return the order that starts with it."""
        orders = _list_orders(self._prepared)
        usages = [(self.measure(order, self._size, self.checkpointing), order) for order in orders]
        return max(usages, key=lambda item: item[0].peak)


def _count_steps(settings: TrainingSection, examples: int) -> int:
    if settings.max_steps > 0:
        return settings.max_steps
    batches = math.ceil(examples / settings.per_device_train_batch_size)
    return math.ceil(math.ceil(batches / settings.gradient_accumulation_steps) * settings.num_train_epochs)


def _list_settings(settings: TrainingSection) -> Iterator[tuple[int, int, bool]]:
    """Yield batch size, accumulation and checkpointing: the recipe's, then half and double the batch size."""
    size, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    sizes = [(size, accumulation)]
    sizes += [(size // 2, accumulation * 2)] if size % 2 == 0 else []
    sizes += [(size * 2, accumulation // 2)] if accumulation % 2 == 0 else []
    checkpointing = settings.gradient_checkpointing
    yield from ((*pair, checkpointing) for pair in sizes)
    yield from ((*pair, not checkpointing) for pair in sizes)


def _list_orders(prepared: PreparedExamples) -> list[list[int]]:
    """List orders that may start with the largest batch: longest first, all examples or those with pictures."""
    by_length = sorted(range(len(prepared.lengths)), key=lambda number: (-prepared.lengths[number], number))
    pictured = [number for number in by_length if prepared.pictured[number]]
    return [by_length, pictured] if pictured and pictured != by_length else [by_length]


def _choose_typical_batches(prepared: PreparedExamples, settings: TrainingSection, count: int = 4) -> list[list[int]]:
    """Choose batches of the first epoch whose padded lengths are spread evenly over those of all its batches."""
    lengths, size = prepared.lengths, settings.per_device_train_batch_size
    order = ORDERS[settings.train_sampling_strategy](
        lengths, size, settings.gradient_accumulation_steps, torch.Generator().manual_seed(settings.seed)
    )
    whole = range(0, max(len(order) - len(order) % size, 1), size)
    batches = sorted((order[start : start + size] for start in whole), key=lambda batch: max(lengths[i] for i in batch))
    return [batches[int((number + 0.5) / count * len(batches))] for number in range(count)]
