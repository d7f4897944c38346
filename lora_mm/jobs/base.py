"""A recipe's base, loaded; and whether base and data can be had at all. Knows recipes and models; knows no scores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lora_mm.adapters.files import RECIPE, check_folder
from lora_mm.errors import LoraMMError
from lora_mm.hub import Unreachable
from lora_mm.jobs.splits import check_place
from lora_mm.models.loading import Base, check_quantization, default_device, find_config, load_base
from lora_mm.ops import kernels
from lora_mm.recipe import Recipe


def adapter_recipe(adapter: Path) -> str:
    """The path of the recipe saved in an adapter folder, to be loaded with overrides."""
    check_folder(adapter)
    return str(adapter / RECIPE)


@contextmanager
def told_when_out_of_memory() -> Iterator[None]:
    """Turn a GPU that is out of memory into a message that says what to change."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise LoraMMError(
            f"Out of GPU memory: {str(error).splitlines()[0]}\n"
            "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
            "training.gradient_checkpointing=true, or lower evaluation.per_device_eval_batch_size. What training takes "
            "is told before by `lora-mm plan`."
        ) from error


def check_sources(recipe: Recipe) -> None:
    """Before anything is loaded: raise where nothing quantises, then one Unreachable for base and data together."""
    check_quantization(recipe.base.quantization)
    missing: list[str] = []
    for find in (
        lambda: find_config(recipe.base.model, recipe.base.revision),
        lambda: check_place(recipe),
    ):
        try:
            find()
        except Unreachable as error:
            missing += error.things
    if missing:
        raise Unreachable(*missing)


def load_recipe_base(recipe: Recipe, *, weights: bool = True) -> Base:
    """The recipe's base, on the GPU if there is one; adapters put on it compute by the recipe's kernels.

    ``weights``: see :func:`~lora_mm.models.loading.load_base`.
    """
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
        weights=weights,
    )
    if weights and section.quantization == "none":
        base.model.to(default_device())
    return base
