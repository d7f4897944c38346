"""The steps that training and scoring share: a recipe's problems, its base, and the score of a model on a split.

Knows recipes, data and models; knows nothing of how an adapter is trained.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_mm.adapters.folder import RECIPE, check_folder, load_adapter
from lora_mm.data import scienceqa as data
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError, LoraMMError, shortened
from lora_mm.evaluation import scienceqa as official
from lora_mm.evaluation.predict import candidate_scores, write_answers
from lora_mm.hub import Unreachable
from lora_mm.models.anatomy import anatomy_of
from lora_mm.models.loading import Base, default_device, find_config, load_base
from lora_mm.ops import kernels
from lora_mm.pocket.cache import world_folder
from lora_mm.pocket.world import WORLDS
from lora_mm.recipe import Recipe

Watch = Callable[[str, int], Callable[[int], None]]
"""Told a label and a total, gives a function to call with every number just done (a progress bar, or nothing)."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's answers to a split.

    Attributes:
        score: the official columns.
        predictions: problem id → index of the choice; None where a written answer names none.
        outputs: problem id → what was written; None where answers were taken by likelihood.
    """

    score: official.Score
    predictions: dict[str, int | None]
    outputs: dict[str, str] | None

    def write(self, file: Path) -> None:
        """In the official results format."""
        official.write_results(file, self.predictions, outputs=self.outputs)


def unwatched(label: str, total: int) -> Callable[[int], None]:
    """A :data:`Watch` that shows nothing."""
    return lambda done: None


@contextmanager
def told_when_out_of_memory() -> Iterator[None]:
    """Turn a GPU that is out of memory into a message that says what to change."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise LoraMMError(
            f"Out of GPU memory: {str(error).splitlines()[0]}\n"
            "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
            "training.gradient_checkpointing=true, or lower evaluation.per_device_eval_batch_size."
        ) from error


def check_sources(recipe: Recipe) -> None:
    """Raise one Unreachable for base and data together, before either is loaded."""
    missing: list[str] = []
    for find in (
        lambda: find_config(recipe.base.model, recipe.base.revision),
        lambda: data.load(_data_source(recipe), recipe.data.train_split, pictures=False, limit=1),
    ):
        try:
            find()
        except Unreachable as error:
            missing += error.things
    if missing:
        raise Unreachable(*missing)


def _data_source(recipe: Recipe) -> str:
    section = recipe.data
    drawn = section.path in WORLDS
    return str(world_folder(section.path, section.pocket.seed, section.pocket.size)) if drawn else section.path


def load_problems(recipe: Recipe, split: str, limit: int | None) -> data.Split:
    """The problems of one split as the recipe says, every picture opened once.

    Raises:
        InputError: everything wrong with the data, each fault named by its row.
    """
    loaded = data.load(_data_source(recipe), split, missing_images=recipe.data.missing_images, limit=limit)
    faults = data.check_images(loaded.problems)
    if faults:
        raise InputError(*shortened(faults))
    return loaded


def load_recipe_base(recipe: Recipe) -> Base:
    """The recipe's base, on the GPU if there is one; adapters put on it compute by the recipe's kernels."""
    section = recipe.base
    kernels.choose(section.kernels)
    base = load_base(
        section.model,
        revision=section.revision,
        dtype=section.dtype,
        quantization=section.quantization,
        full_precision=section.full_precision,
        attention=section.attention,
        anatomy=section.anatomy.model_dump(exclude_none=True) if section.anatomy else None,
    )
    if section.quantization == "none":
        base.model.to(default_device())
    return base


def collator_of(recipe: Recipe, base: Base) -> Collator:
    """What turns the recipe's examples into batches for its base.

    Raises:
        InputError: when pictures are to be cut for a base that cuts them itself, or an adapter for each crop is asked
            for where pictures stay whole.
    """
    section, row = recipe.data.slicing, anatomy_of(base.model)
    family = base.model.config.model_type
    if section is None:
        for_crops = [f"adapters.{n}" for n, item in enumerate(recipe.adapters) if item.row.router == "crop"]
        if for_crops and row.crops == "none":
            raise InputError(
                f"{', '.join(for_crops)}: '{family}' bases see every picture in one piece, so no crop would train it; "
                "set data.slicing, such as --set data.slicing.rows=2 --set data.slicing.columns=2."
            )
        return Collator(base.processor, max_length=recipe.data.max_length)
    if row.crops != "none" or row.packed or not row.visual_tokens:
        raise InputError(
            f"data.slicing: '{family}' bases have a way of their own to take pictures apart; leave it out "
            "(--set data.slicing=null)."
        )
    size = base.processor.image_processor.to_dict()
    edges = size.get("crop_size") or size["size"]
    window = section.window or edges.get("height") or edges["shortest_edge"]
    slicer = Slicer(section.rows, section.columns, window)
    return Collator(base.processor, max_length=recipe.data.max_length, slicer=slicer)


def examples_of(recipe: Recipe, problems: tuple[data.Problem, ...]) -> list[Example]:
    """The problems as exchanges in the recipe's format."""
    section = recipe.data
    return [data.to_example(problem, format=section.format, caption=section.captions) for problem in problems]


def score_model(
    model: nn.Module,
    collator: Collator,
    recipe: Recipe,
    problems: tuple[data.Problem, ...],
    advance: Callable[[int], None],
) -> Scored:
    """Ask ``model`` every problem, as ``recipe.evaluation`` says, and score the answers officially."""
    section = recipe.evaluation
    examples = examples_of(recipe, problems)
    # Longest first: what memory is needed is needed at once, and neighbours pad each other little.
    order = sorted(range(len(examples)), key=lambda index: -sum(collator.length(examples[index])))
    ordered = [examples[index] for index in order]
    size = section.per_device_eval_batch_size
    predictions: dict[str, int | None]
    outputs: dict[str, str] | None = None
    if section.answer == "likelihood":
        with told_when_out_of_memory():
            rows = candidate_scores(model, collator, ordered, batch_size=size, advance=advance)
        chosen = {example.id: row.index(max(row)) for example, row in zip(ordered, rows, strict=True)}
        predictions = {problem.id: chosen[problem.id] for problem in problems}
    else:
        tokens = section.max_new_tokens
        with told_when_out_of_memory():
            texts = write_answers(model, collator, ordered, batch_size=size, max_new_tokens=tokens, advance=advance)
        written = {example.id: text for example, text in zip(ordered, texts, strict=True)}
        outputs = {problem.id: written[problem.id] for problem in problems}
        read = official.parse_choice if recipe.data.format == "QCM-T" else official.parse_answer
        predictions = {problem.id: read(outputs[problem.id], problem.choices) for problem in problems}
    return Scored(official.score(problems, predictions), predictions, outputs)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``evaluate`` found: rows of the official table, and the adapter's own answers (the base's, if alone)."""

    scores: dict[str, official.Score]
    scored: Scored
    account: str


def evaluate(
    adapter: Path, recipe: Recipe, *, split: str, limit: int | None, base_only: bool, watch: Watch
) -> Evaluation:
    """Score the base with the adapter in ``adapter``, or the base alone.

    Args:
        adapter: an adapter folder; its recipe, with any overrides, is ``recipe``.
        split: what to ask.
        limit: ask the first so many problems only.
    """
    check_folder(adapter)
    loaded = load_problems(recipe, split, limit)
    base = load_recipe_base(recipe)
    collator = collator_of(recipe, base)
    model = base.model if base_only else load_adapter(base, adapter)
    name = "frozen base" if base_only else "adapter"
    scored = score_model(model, collator, recipe, loaded.problems, watch(name, len(loaded.problems)))
    scores = {"random choice": official.random_choice(loaded.problems), name: scored.score}
    return Evaluation(scores, scored, loaded.account())


def adapter_recipe(adapter: Path) -> str:
    """The path of the recipe saved with an adapter, to be loaded with overrides."""
    check_folder(adapter)
    return str(adapter / RECIPE)


def environment() -> dict[str, Any]:
    """Versions and devices, for bug reports and results."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("lora-mm", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "triton")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": torch.get_num_threads(),
        "devices": devices or [default_device().type],
        "packages": {package: of(package) for package in packages},
    }


def to_json(value: Any) -> str:
    """One line of JSON, letters as they are."""
    return json.dumps(value, ensure_ascii=False)
