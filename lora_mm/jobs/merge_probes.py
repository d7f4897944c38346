"""Makes probes to compare two models on, from a recipe's data or at random. Knows no adapters."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.splits import load_split
from lora_mm.errors import LoraMMError
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.pocket.own_data import OWN_DATA_SETS
from lora_mm.pocket.world import WORLDS
from lora_mm.recipe.sections import Recipe

PROBES_PER_MODALITY = 4
"""Number of probes for each modality."""

_MAX_ROWS = 200  # rows of the split to search for probes
_MAX_TOKENS = 32  # of each answer to compare: logits of long answers over a vocabulary of 150,000 would fill the memory
_WORDS = ("which", "of", "these", "is", "the", "answer", "to", "a", "question", "nobody", "asked", "red", "blue", "two")


@dataclass(frozen=True)
class Probes:
    """Batches to run through both models.

    Attributes:
        batches: modality → batches with ``labels``.
        about: their source, as text.
    """

    batches: dict[str, list[dict[str, Tensor]]]
    about: str


def make_probes(recipe: Recipe, collator: Collator, modalities: Sequence[str]) -> Probes:
    """Make :data:`PROBES_PER_MODALITY` probes for each modality; those other than ``text`` have a picture.

    Args:
        recipe: the recipe whose evaluation split is searched.
        collator: the collator of the base.
        modalities: modalities of the base.

    Returns:
        The probes; random ones for a modality without examples.
    """
    available, about = _load_examples(recipe)
    batches, random_modalities = {}, []
    for modality in modalities:
        pictured = modality != "text"
        examples = [example for example in available if bool(example.images) is pictured][:PROBES_PER_MODALITY]
        if not examples:
            random_modalities.append(modality)
            examples = [_make_random_example(number, pictured) for number in range(PROBES_PER_MODALITY)]
        batch = collator(examples)
        labels = batch["labels"]
        labels[(labels != IGNORE_INDEX).cumsum(dim=1) > _MAX_TOKENS] = IGNORE_INDEX
        batches[modality] = [batch]
    if random_modalities:
        about += f"; random probes for {' and '.join(random_modalities)}"
    return Probes(batches, about)


def _load_examples(recipe: Recipe) -> tuple[list[Example], str]:
    """Load examples of the evaluation split, and their source; none, and the reason, if the data is not available."""
    if recipe.data.path in (*WORLDS, *OWN_DATA_SETS):  # drawing as many as for training takes a minute
        few = recipe.data.pocket.model_copy(update={"size": min(recipe.data.pocket.size, _MAX_ROWS)})
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"pocket": few})})
    try:
        split = load_split(recipe, recipe.data.eval_split, _MAX_ROWS)
    except LoraMMError as error:
        return [], f"data.path is not available ({str(error).splitlines()[0]})"
    return list(split.examples), f"rows of {recipe.data.location} {split.name}"


def _make_random_example(number: int, pictured: bool) -> Example:
    """Make a question of random words, with a picture of noise if ``pictured``."""
    rng = random.Random(number)
    prompt, target = (" ".join(rng.choices(_WORDS, k=count)) for count in (12, 6))
    noise = torch.randint(256, (96, 96, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise.numpy()).save(stream, format="PNG")
    return Example(f"probe-{number}", prompt, target, images=(stream.getvalue(),) if pictured else ())
