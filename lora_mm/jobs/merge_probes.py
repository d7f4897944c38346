"""A few exchanges of each modality to compare two models on: from a recipe's data where it is at hand, else made up."""

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
"""Probes of a modality."""

_LOOKED_AT = 200  # rows of the split, to find probes among
_TOKENS = 32  # of each answer: logits of a long one over 150,000 words would fill the memory
_WORDS = ("which", "of", "these", "is", "the", "answer", "to", "a", "question", "nobody", "asked", "red", "blue", "two")


@dataclass(frozen=True)
class Probes:
    """Batches to ask models.

    Attributes:
        batches: modality → batches with ``labels``.
        about: where they come from, for people.
    """

    batches: dict[str, list[dict[str, Tensor]]]
    about: str


def make_probes(recipe: Recipe, collator: Collator, modalities: Sequence[str]) -> Probes:
    """:data:`PROBES_PER_MODALITY` exchanges for each of ``modalities``; those beyond ``text`` come with a picture."""
    found, about = _from_data(recipe)
    batches, made_up = {}, []
    for modality in modalities:
        pictured = modality != "text"
        examples = [example for example in found if bool(example.images) is pictured][:PROBES_PER_MODALITY]
        if not examples:
            made_up.append(modality)
            examples = [_made_up(number, pictured) for number in range(PROBES_PER_MODALITY)]
        batch = collator(examples)
        labels = batch["labels"]
        labels[(labels != IGNORE_INDEX).cumsum(dim=1) > _TOKENS] = IGNORE_INDEX
        batches[modality] = [batch]
    if made_up:
        about += f"; {' and '.join(made_up)} made up"
    return Probes(batches, about)


def _from_data(recipe: Recipe) -> tuple[list[Example], str]:
    """Problems of the recipe's evaluation split, and what they are; none, and why, where the data is not at hand."""
    if recipe.data.path in (*WORLDS, *OWN_DATA_SETS):  # drawing as many as were trained on would take a minute
        few = recipe.data.pocket.model_copy(update={"size": min(recipe.data.pocket.size, _LOOKED_AT)})
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"pocket": few})})
    try:
        split = load_split(recipe, recipe.data.eval_split, _LOOKED_AT)
    except LoraMMError as error:
        return [], f"data.path is not at hand ({str(error).splitlines()[0]})"
    return list(split.examples), f"rows of {recipe.data.where} {split.name}"


def _made_up(number: int, pictured: bool) -> Example:
    """A question of random words, about noise."""
    rng = random.Random(number)
    prompt, target = (" ".join(rng.choices(_WORDS, k=count)) for count in (12, 6))
    noise = torch.randint(256, (96, 96, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise.numpy()).save(stream, format="PNG")
    return Example(f"probe-{number}", prompt, target, images=(stream.getvalue(),) if pictured else ())
