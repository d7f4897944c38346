"""Loads a recipe's base, makes its collator, and checks that base and data exist. Knows no training and no scores."""

from pathlib import Path
from typing import Any

from lora_mm.adapters.support import find_obstacle
from lora_mm.artifact.files import RECIPE, check_adapter_folder
from lora_mm.data.collate import Collator
from lora_mm.data.slicing import Slicer
from lora_mm.data.splits import check_data_source
from lora_mm.errors import InputError
from lora_mm.hub_access import UnreachableError
from lora_mm.models.anatomy import get_anatomy
from lora_mm.models.families import Family, find_family
from lora_mm.models.fitting import make_fitter
from lora_mm.models.loading import (
    Base,
    get_default_device,
    load_base,
    load_base_config,
    load_base_processor,
)
from lora_mm.models.precision import check_quantization
from lora_mm.models.special_tokens import allow_tokens
from lora_mm.recipe.sections import Recipe


def find_adapter_recipe(adapter: Path) -> str:
    """Return the path of the recipe in an adapter folder, for :func:`~lora_mm.recipe.load.load_recipe`.

    Raises:
        InputError: ``adapter`` is not an adapter folder.
    """
    check_adapter_folder(adapter)
    return str(adapter / RECIPE)


def check_sources(recipe: Recipe) -> None:
    """Check that the base can be quantized and that base and data can be reached, before anything is loaded.

    Raises:
        InputError: quantization does not work on this machine, or base or data cannot be used.
        UnreachableError: base or data cannot be reached; names both if both are missing.
    """
    check_quantization(recipe.base.quantization)
    missing: list[str] = []
    for check in (
        lambda: load_base_config(recipe.base.model, recipe.base.revision),
        lambda: check_data_source(recipe),
    ):
        try:
            check()
        except UnreachableError as error:
            missing += error.things
    if missing:
        raise UnreachableError(*missing)


def load_recipe_base(recipe: Recipe, *, weights: bool = True) -> Base:
    """Load the recipe's base, on the GPU if there is one.

    Args:
        recipe: the recipe; its ``base`` section says what to load and how.
        weights: False loads the base without weights, see :func:`~lora_mm.models.loading.load_base`.

    Raises:
        InputError: the base cannot be loaded or adapted.
    """
    section = recipe.base
    base = load_base(
        section.model,
        revision=section.revision,
        dtype=section.dtype,
        quantization=section.quantization,
        full_precision=section.full_precision,
        attention=section.attention,
        anatomy=section.anatomy,
        weights=weights,
    )
    if weights and section.quantization == "none":
        base.model.to(get_default_device())
    return base


def make_base_collator(recipe: Recipe, base: Base) -> Collator:
    """Make the collator for a loaded base.

    Args:
        recipe: the recipe; its ``data`` section says how long examples may be and how pictures are prepared.
        base: the base of the recipe.

    Raises:
        InputError: see :func:`make_collator`.
    """
    return make_collator(recipe, base.model.config, get_anatomy(base.model).family, base.processor)


def make_collator_without_weights(recipe: Recipe) -> Collator:
    """Make the collator of a recipe from the base's configuration and processor, without loading the base.

    Raises:
        InputError: the base cannot be used, or see :func:`make_collator`.
    """
    section = recipe.base
    config = load_base_config(section.model, section.revision)
    description = section.anatomy
    processor = load_base_processor(section.model, config, section.revision, description)
    return make_collator(recipe, config, find_family(config.model_type, description), processor)


def make_collator(recipe: Recipe, config: Any, family: Family, processor: Any) -> Collator:
    """Make a collator that fits and slices pictures as the recipe says.

    Args:
        recipe: the recipe; ``data.slicing`` and the adapters must fit the base.
        config: the base's configuration.
        family: what is true of the base's family.
        processor: the base's processor.

    Raises:
        InputError: the recipe slices pictures for a base that slices them itself, or it has adapters per crop but does
            not slice pictures; or it allows special tokens that the base cannot spare.
    """
    section, name = recipe.data.slicing, config.model_type
    processor = allow_tokens(processor, recipe.data.special_tokens)
    one_view = section is None and family.crops == "none" and not family.packed
    fitter = make_fitter(processor, recipe.data.pictures.fit, one_view=one_view)
    if section is None:
        for_crops = [f"adapters.{n}" for n, item in enumerate(recipe.adapters) if item.row.router == "crop"]
        if for_crops and family.crops == "none" and find_obstacle("crop_lora", family) is None:
            raise InputError(
                f"{', '.join(for_crops)}: '{name}' bases do not slice pictures, so there are no crops to train on; "
                "set data.slicing, for example --set data.slicing.rows=2 --set data.slicing.columns=2."
            )
        return Collator(processor, max_length=recipe.data.max_length, fitter=fitter)
    if family.crops == "unknown":
        raise InputError(
            f"data.slicing: it is not known whether '{name}' bases slice pictures themselves; leave it out, or say so: "
            "--set base.anatomy.crops=none."
        )
    if family.crops != "none" or family.packed or not family.visual_tokens:
        raise InputError(
            f"data.slicing: '{name}' bases slice pictures themselves; leave it out (--set data.slicing=null)."
        )
    settings = processor.image_processor.to_dict()
    edges = settings.get("crop_size") or settings.get("size") or {}
    window = section.window or edges.get("height") or edges.get("shortest_edge")
    if window is None:
        raise InputError(
            f"data.slicing.window: '{name}' bases take pictures of any size; say how many pixels wide a crop is, for "
            "example --set data.slicing.window=448."
        )
    slicer = Slicer(section.rows, section.columns, window)
    return Collator(processor, max_length=recipe.data.max_length, slicer=slicer, fitter=fitter)
