"""The samples of each pretraining step, and the held-out samples. Trains nothing.

Letters come first: a model of this size learns to name the letter of an option only while it learns little else.
Binding letters to options takes a few hundred steps with the bare form, and never happens together with pictures.
Pictures join when letters are bound, and letters stay in the mixture to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tools.pocket_pretraining.binding_corpus import bare, bridge, facts, kinds, named, recall, topics
from tools.pocket_pretraining.picture_corpus import picture
from tools.pocket_pretraining.samples import Sample
from tools.pocket_pretraining.sentence_corpus import sentence
from tools.pocket_pretraining.vocabulary import WORDS

CURVES = ("bare", "named", "facts", "kinds", "picture open", "picture choice", "caption", "sentences")
"""Kinds of held-out samples, each a column of the curves."""


@dataclass(frozen=True)
class Stage:
    """A stage of the curriculum.

    Attributes:
        name: its name, for the curves.
        share: share of all steps.
        batch: samples in a step.
        mixture: function that makes a sample → its share of the samples.
    """

    name: str
    share: float
    batch: int
    mixture: dict[Callable[[Random], Sample], float]


def _make_caption(rng: Random) -> Sample:
    return picture(rng, "caption")


def _make_open_question(rng: Random) -> Sample:
    return picture(rng, "open")


STAGES = (
    Stage("letters", 0.06, 160, {bare: 1.0}),
    Stage("bridge", 0.07, 128, {bare: 0.3, bridge: 0.65, recall: 0.05}),
    Stage(
        "exam form", 0.13, 80,
        {bridge: 0.1, named: 0.3, recall: 0.15, facts: 0.15, kinds: 0.1,
         topics: 0.1, sentence: 0.1},
    ),
    Stage(
        "eyes", 0.14, 64,
        {bridge: 0.02, named: 0.06, recall: 0.03, facts: 0.08, kinds: 0.04,
         topics: 0.03, sentence: 0.04, _make_caption: 0.04, _make_open_question: 0.66},
    ),
    Stage(
        "all", 0.60, 64,
        {bridge: 0.01, named: 0.06, recall: 0.02, facts: 0.12, kinds: 0.05,
         topics: 0.04, sentence: 0.08, picture: 0.62},
    ),
)  # fmt: skip


def make_held_out(seed: int, size: int = 128) -> dict[str, list[Sample]]:
    """Make held-out samples.

    Args:
        seed: seed of the held-out samples.
        size: samples of each kind.

    Returns:
        Kind → samples, in the order of :data:`CURVES`.
    """
    rng = Random(f"held-out {seed}")
    makers = {
        "bare": bare,
        "named": lambda r: named(r, words_rate=0.0),
        "facts": lambda r: facts(r, reveal_rate=0.0, words_rate=0.0),
        "kinds": lambda r: kinds(r, words_rate=0.0),
        "picture open": _make_open_question,
        "picture choice": lambda r: picture(r, "choice"),
        "caption": _make_caption,
        "sentences": sentence,
    }
    return {kind: [make(rng) for _ in range(size)] for kind, make in makers.items()}


def iterate_batches(seed: int, steps: int) -> Iterator[tuple[str, list[Sample]]]:
    """Iterate over the curriculum: the name of the stage and the samples of each step.

    Args:
        seed: seed of the samples.
        steps: number of steps.
    """
    rng = Random(f"train {seed}")
    for stage in STAGES:
        makers, weights = list(stage.mixture), list(stage.mixture.values())
        for _ in range(round(stage.share * steps)):
            yield stage.name, [make(rng) for make in rng.choices(makers, weights, k=stage.batch)]


def make_texts(seed: int, size: int = 12000) -> list[str]:
    """Make texts to train the tokenizer on.

    Args:
        seed: seed of the texts.
        size: number of texts from samples; lists of words are added.
    """
    rng = Random(f"texts {seed}")
    makers: tuple[Callable[[Random], Sample], ...] = (
        *[named] * 2, facts, kinds, topics, *[sentence] * 4, picture,
    )  # fmt: skip
    words = [" " + " ".join(rng.sample(WORDS, 40)) for _ in range(size // 20)]
    return words + [
        "".join(t for t, _ in rng.choice(makers)(rng).pieces).replace("<image>", "").replace("</s>", "")
        for _ in range(size)
    ]
