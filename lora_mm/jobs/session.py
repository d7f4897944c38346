"""A recipe's base, loaded; and whether base and data can be had at all. Knows recipes and models; knows no scores."""

from pathlib import Path
from typing import Any

from lora_mm.adapters.support import find_obstacle
from lora_mm.artifact.files import RECIPE, check_adapter_folder
from lora_mm.data.collate import Collator
from lora_mm.data.slicing import Slicer
from lora_mm.data.splits import check_data_source
from lora_mm.errors import InputError
from lora_mm.hub_access import UnreachableError
from lora_mm.models.anatomy import find_anatomy, get_anatomy
from lora_mm.models.families import Anatomy, register_family
from lora_mm.models.loading import (
    Base,
    get_default_device,
    load_base,
    load_base_config,
    load_base_processor,
)
from lora_mm.models.precision import check_quantization
from lora_mm.recipe.sections import Recipe


def find_adapter_recipe(adapter: Path) -> str:
    """The path of the recipe saved in an adapter folder, to be loaded with overrides."""
    check_adapter_folder(adapter)
    return str(adapter / RECIPE)


def check_sources(recipe: Recipe) -> None:
    """Before anything is loaded: raise where nothing quantises, then one Unreachable for base and data together."""
    check_quantization(recipe.base.quantization)
    missing: list[str] = []
    for find in (
        lambda: load_base_config(recipe.base.model, recipe.base.revision),
        lambda: check_data_source(recipe),
    ):
        try:
            find()
        except UnreachableError as error:
            missing += error.things
    if missing:
        raise UnreachableError(*missing)


def load_recipe_base(recipe: Recipe, *, weights: bool = True) -> Base:
    """The recipe's base, on the GPU if there is one.

    ``weights``: see :func:`~lora_mm.models.loading.load_base`.
    """
    section = recipe.base
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
        base.model.to(get_default_device())
    return base


def make_base_collator(recipe: Recipe, base: Base) -> Collator:
    """What turns the recipe's examples into batches for its base; see :func:`make_collator`."""
    return make_collator(recipe, base.model.config, get_anatomy(base.model), base.processor)


def make_collator_without_weights(recipe: Recipe) -> Collator:
    """The same without the base's weights, to look at data with."""
    section = recipe.base
    config = load_base_config(section.model, section.revision)
    if section.anatomy:
        register_family(config.model_type, **section.anatomy.model_dump(exclude_none=True))
    processor = load_base_processor(section.model, config, section.revision)
    return make_collator(recipe, config, find_anatomy(config), processor)


def make_collator(recipe: Recipe, config: Any, row: Anatomy, processor: Any) -> Collator:
    """A collator for the recipe's way with pictures.

    Raises:
        InputError: when pictures are to be cut for a base that cuts them itself, or an adapter for each crop is asked
            for where pictures stay whole.
    """
    section, family = recipe.data.slicing, config.model_type
    if section is None:
        for_crops = [f"adapters.{n}" for n, item in enumerate(recipe.adapters) if item.row.router == "crop"]
        if for_crops and row.crops == "none" and find_obstacle("crop_lora", row) is None:
            raise InputError(
                f"{', '.join(for_crops)}: '{family}' bases see every picture in one piece, so no crop would train it; "
                "set data.slicing, such as --set data.slicing.rows=2 --set data.slicing.columns=2."
            )
        return Collator(processor, max_length=recipe.data.max_length)
    if row.crops != "none" or row.packed or not row.visual_tokens:
        raise InputError(
            f"data.slicing: '{family}' bases have a way of their own to take pictures apart; leave it out "
            "(--set data.slicing=null)."
        )
    size = processor.image_processor.to_dict()
    edges = size.get("crop_size") or size["size"]
    window = section.window or edges.get("height") or edges["shortest_edge"]
    slicer = Slicer(section.rows, section.columns, window)
    return Collator(processor, max_length=recipe.data.max_length, slicer=slicer)
