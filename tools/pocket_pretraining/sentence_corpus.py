"""The part of the pretraining corpus with plain sentences, made of the words of the pocket world's tables.

It shows every word of the world, so that the base knows them all. Knows no question of the pocket world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from lora_mm.pocket import tables
from tools.pocket_pretraining.samples import FORM_WEIGHT, SENTENCE_WEIGHT, Sample
from tools.pocket_pretraining.vocabulary import SCHOOL


def sentence(rng: Random) -> Sample:
    """Two to four plain sentences."""
    lines = [rng.choice(SENTENCES)(rng) for _ in range(rng.randint(2, 4))]
    return Sample(
        "sentences",
        [
            ("USER: Say something. ASSISTANT:", 0.0),
            (rng.choice((" ", "\n")) + rng.choice((" ", "\n")).join(lines), SENTENCE_WEIGHT),
            ("</s>", FORM_WEIGHT),
        ],
    )


def _pick(rng: Random, words: Iterable[str]) -> str:
    return rng.choice(tuple(words))


def _say_animal(rng: Random) -> str:
    kind = rng.choice(tuple(tables.ANIMALS))
    animal = rng.choice(tables.ANIMALS[kind])
    signs = {
        "mammal": "has hair and feeds its young milk", "bird": "has feathers and a beak",
        "fish": "has fins and lives in water", "reptile": "has dry scales",
    }  # fmt: skip
    return rng.choice((f"The {animal} {signs[kind]}.", f"A {kind} {signs[kind]}.", f"The {animal} is a {kind}."))


def _say_tense(rng: Random) -> str:
    verb, rest = rng.choice(tables.ACTIONS)
    name = _pick(rng, tables.NAMES)
    return rng.choice(
        (
            f"Every day {name} {verb} {rest}.", f"Yesterday {name} {tables.past_tense(verb)} {rest}.",
            f"Tomorrow {name} will {tables.base_form(verb)} {rest}.", f"Did {name} {tables.base_form(verb)} {rest}?",
            f"Please {tables.base_form(verb)} {rest}.",
            f"{tables.base_form(verb).capitalize()} {rest}!", f"How well {name} {verb} {rest}!",
        )
    )  # fmt: skip


def _say_season(rng: Random) -> str:
    city = _pick(rng, tables.CITIES)
    weather = rng.choice(("rain", "snow", "hail", "fog", "a storm", "a warm breeze", "strong wind", "a clear sky"))
    verb = rng.choice(("rain", "snow", "hail"))
    season = rng.choice(("summers", "winters"))
    return rng.choice(
        (
            f"On {rng.choice(('Monday', 'Friday'))} there was {weather} in {city}.",
            f"There is {weather} over {city} {rng.choice(('today', 'this morning', 'this afternoon'))}.",
            f"It {verb}ed in {city} {rng.choice(('yesterday', 'last night', 'this morning'))}.",
            f"In {city} it {rng.choice(('often', 'usually'))} {verb}s in {rng.choice(('spring', 'winter', 'summer'))}.",
            f"The {season} of {city} are {rng.choice(('usually ', 'often ', ''))}"
            f"{rng.choice(('mild', 'dry', 'hot', 'cold', 'long', 'sunny'))}.",
            f"Each year {city} has a {rng.choice(('long', 'dry', 'cold', 'sunny'))} season.",
        )
    )


def _say_inheritance(rng: Random) -> str:
    animal, big, small, *looks = rng.choice(tables.GENES)
    pet = rng.choice(tables.PETS)
    return rng.choice(
        (
            f"The {animal} {pet} has {rng.choice(looks)}.",
            f"The letters {rng.choice((big + big, big + small, small + small))} are the genotype of {pet}.",
            f"The allele {rng.choice((big, small))} is {rng.choice(('dominant', 'recessive'))} in the {animal}.",
        )
    )


SENTENCES: tuple[Callable[[Random], str], ...] = (
    *[_say_animal] * 3,
    *[_say_tense] * 5,
    *[_say_season] * 3,
    *[_say_inheritance] * 2,
    lambda r: (
        f"{_pick(r, tables.WARES).capitalize()} and {_pick(r, tables.WARES)} are sold in {_pick(r, tables.CITIES)}."
    ),
    lambda r: f"{_pick(r, tables.NAMES)} wants {_pick(r, tables.WARES)}, not {_pick(r, tables.WARES)}.",
    lambda r: f"{_pick(r, tables.NAMES)} buys {r.choice(('a', 'the'))} {_pick(r, tables.GOODS)} at the shop.",
    lambda r: f"{_pick(r, tables.NAMES)} pays for a {_pick(r, tables.SERVICES)}.",
    lambda r: f"You can hold {r.choice(('a', 'the'))} {_pick(r, tables.SOLIDS)} in your hand; it keeps its shape.",
    lambda r: f"You can pour {_pick(r, tables.LIQUIDS)}; it flows.",
    lambda r: f"You cannot see {_pick(r, tables.GASES)}; it fills its space.",
    lambda r: f"{_pick(r, tables.LENGTHS['centimeters']).capitalize()} is short.",
    lambda r: f"{_pick(r, tables.LENGTHS['meters']).capitalize()} is long.",
    lambda r: f"{_pick(r, tables.LENGTHS['kilometers']).capitalize()} is very long.",
    lambda r: f"{_pick(r, tables.VOLUMES['milliliters']).capitalize()} holds a little water.",
    lambda r: f"{_pick(r, tables.VOLUMES['liters']).capitalize()} holds much water.",
    lambda r: f"{_pick(r, tables.NAMES)} was born with {_pick(r, tables.INHERITED)}.",
    lambda r: f"{_pick(r, tables.NAMES)} got {_pick(r, tables.ACQUIRED)} last year.",
    lambda r: f"The {_pick(r, tables.CREATURES)} lives near the {_pick(r, ('river', 'forest', 'lake', 'meadow'))}.",
    *[lambda r: _pick(r, SCHOOL)] * 8,
)
