"""The pocket world's kinds of problems: a row each, with its question and official fields. Knows no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from lora_mm.pocket import questions as ask
from lora_mm.pocket.questions import Draft


@dataclass(frozen=True)
class Template:
    """A kind of problem: how one is made, its official fields, and how many of it there are for one of the others."""

    make: Callable[[Random], Draft]
    subject: str
    topic: str
    category: str
    skill: str
    grades: tuple[int, ...]
    lecture: str
    weight: int = 1

    @property
    def name(self) -> str:
        """A short name for tables and tests."""
        return self.make.__name__


NATURAL, SOCIAL, LANGUAGE = "natural science", "social science", "language science"
TEMPLATES = (
    Template(
        ask.magnets,
        NATURAL,
        "physics",
        "Magnets",
        "Identify magnets that attract or repel",
        (2, 3, 4, 5),
        "A magnet has two poles. Unlike poles attract: they pull together. Like poles repel: they push apart.",
    ),
    Template(
        ask.concentration,
        NATURAL,
        "chemistry",
        "Solutions",
        "Compare concentrations of solutions",
        (6, 7, 8),
        "In equal volumes, more particles of solute make a higher concentration.",
    ),
    Template(
        ask.cardinal,
        SOCIAL,
        "geography",
        "Maps",
        "Read a map: cardinal directions",
        (2, 3, 4),
        "On most maps north is at the top, south at the bottom, west at the left and east at the right.",
        weight=3,  # four questions in one, and the commonest kind in ScienceQA too
    ),
    Template(
        ask.temperature,
        NATURAL,
        "physics",
        "Particle motion and energy",
        "Identify how particle motion affects temperature",
        (6, 7, 8),
        "The temperature of a gas depends on how fast its particles move. Faster particles have more kinetic energy.",
    ),
    Template(
        ask.food_web,
        NATURAL,
        "biology",
        "Ecosystems",
        "Interpret food webs",
        (4, 5, 6, 7),
        "A food web shows who eats whom. Each arrow points from what is eaten to the organism that eats it.",
    ),
    Template(
        ask.magnet_pairs,
        NATURAL,
        "physics",
        "Magnets",
        "Compare strengths of magnetic forces",
        (3, 4, 7, 8),
        "The force between magnets depends on the distance between them. It is stronger when they are closer together.",
    ),
    Template(
        ask.thermometer,
        NATURAL,
        "units-and-measurement",
        "Units and measurement",
        "Read a thermometer",
        (2, 3, 4),
        "A thermometer shows the temperature where its red liquid ends.",
    ),
    Template(
        ask.graph,
        SOCIAL,
        "economics",
        "Basic economic principles",
        "Interpret bar graphs",
        (6, 7, 8, 9),
        "In a bar graph a taller bar stands for a larger amount.",
        weight=3,  # two questions in one, of a picture with most in it
    ),
    Template(
        ask.length,
        NATURAL,
        "units-and-measurement",
        "Units and measurement",
        "Choose metric units of length",
        (3, 4, 5),
        "Centimeters measure short things, meters longer things, and kilometers long distances.",
    ),
    Template(
        ask.volume,
        NATURAL,
        "units-and-measurement",
        "Units and measurement",
        "Choose metric units of volume",
        (4, 5, 7),
        "Milliliters measure small volumes and liters measure larger ones.",
    ),
    Template(
        ask.tense,
        LANGUAGE,
        "verbs",
        "Verb tense",
        "Is the sentence in the past, present, or future tense?",
        (2, 3, 4, 5),
        "The tense of a verb tells whether something happened before, happens now, or will happen later.",
    ),
    Template(
        ask.sentence_kind,
        LANGUAGE,
        "punctuation",
        "Sentences",
        "Is the sentence declarative, interrogative, imperative, or exclamatory?",
        (5, 6, 7, 8, 9),
        "A sentence can state (declarative), ask (interrogative), command (imperative) or exclaim (exclamatory).",
    ),
    Template(
        ask.figure,
        LANGUAGE,
        "figurative-language",
        "Literary devices",
        "Classify the figure of speech",
        (7, 8, 9, 10, 11, 12),
        "A simile compares with like or as. Personification lets things act as people do. Hyperbole exaggerates.",
    ),
    Template(
        ask.animals,
        NATURAL,
        "biology",
        "Classification",
        "Identify mammals, birds, fish and reptiles",
        (2, 3, 7),
        "Mammals have hair, birds have feathers, fish have fins and live in water, and reptiles have dry scales.",
    ),
    Template(
        ask.matter,
        NATURAL,
        "chemistry",
        "States of matter",
        "Identify solids, liquids and gases",
        (2, 3, 4, 5),
        "A solid keeps its shape, a liquid flows and keeps its volume, and a gas fills all its space.",
    ),
    Template(
        ask.traits,
        NATURAL,
        "biology",
        "Traits and heredity",
        "Identify inherited and acquired traits",
        (4, 7, 8),
        "Organisms are born with inherited traits. They gain acquired traits during their lives.",
    ),
    Template(
        ask.weather,
        NATURAL,
        "earth-science",
        "Weather and climate",
        "Weather and climate around the world",
        (3, 5, 6, 7),
        "Weather is what the air is like at a time and place. Climate is the pattern of weather over many years.",
    ),
    Template(
        ask.goods,
        SOCIAL,
        "economics",
        "Basic economic principles",
        "Identify goods and services",
        (2, 3, 4, 7),
        "People buy goods, which they can keep, and services, which others do for them.",
    ),
    Template(
        ask.market,
        SOCIAL,
        "economics",
        "Supply and demand",
        "Supply and demand",
        (7, 8, 9, 10),
        "Supply is how much sellers offer. Demand is how much buyers want.",
    ),
    Template(
        ask.genotype,
        NATURAL,
        "biology",
        "Genes to traits",
        "Genetics vocabulary: genotype and phenotype",
        (7, 8),
        "A dominant allele shows even when there is only one of it. A recessive allele shows only when there are two.",
    ),
)

DETAILS = (
    Template(
        ask.upright_cloth,
        NATURAL,
        "materials",
        "Materials",
        "Look closely at fine structure",
        (2, 3, 7, 8),
        "Cloth is woven of threads. The way its stripes run can be seen from close by only.",
    ),
)
"""Questions whose answer is in details that are lost when the picture is shrunk."""
