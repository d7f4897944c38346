"""The questions of the pocket world that need no picture, in the style of ScienceQA: one function each."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from lora_mm.pocket import tables
from lora_mm.pocket.problem import ProblemDraft, put_first


def _draft_estimate(rng: Random, units: Mapping[str, tuple[str, ...]], question: str) -> ProblemDraft:
    """Ask for the better estimate; ``units`` maps each unit to things that it measures."""
    unit = rng.choice(tuple(units))
    thing = rng.choice(units[unit])
    number = rng.randint(2, 40)
    wrong_units = rng.sample([u for u in units if u != unit], rng.randint(1, len(units) - 1))
    return ProblemDraft(
        question.format(thing),
        tuple(f"{number} {u}" for u in (unit, *wrong_units)),
        f"The better estimate for {thing} is {number} {unit}; what else is offered is too far from it.",
        "Select the better estimate.",
    )


def length(rng: Random) -> ProblemDraft:
    """How long is a thing? The right answer has the unit in which such lengths are measured."""
    return _draft_estimate(rng, tables.LENGTHS, "How long is {}?")


def volume(rng: Random) -> ProblemDraft:
    """What is the volume of a thing? The right answer has the unit in which such volumes are measured."""
    return _draft_estimate(rng, tables.VOLUMES, "What is the volume of {}?")


def _random_action(rng: Random) -> tuple[str, str, str]:
    """A name, a verb in the present tense and the rest of the sentence."""
    verb, rest = rng.choice(tables.ACTIONS)
    return rng.choice(tables.NAMES), verb, rest


def tense(rng: Random) -> ProblemDraft:
    """Which tense does a sentence use? The form of its verb shows it."""
    name, verb, rest = _random_action(rng)
    which = rng.choice(("past tense", "present tense", "future tense"))
    future = f"will {tables.base_form(verb)}"
    form = {"past tense": tables.past_tense(verb), "present tense": verb, "future tense": future}[which]
    return ProblemDraft(
        f"Which tense does the sentence use?\n{name} {form} {rest}.",
        put_first(("past tense", "present tense", "future tense"), which),
        f"The verb is {form}. It is in the {which}.",
    )


def sentence_kind(rng: Random) -> ProblemDraft:
    """What kind of sentence is this? Its start and its last mark show it."""
    name, verb, rest = _random_action(rng)
    kinds = {
        "declarative": f"{name} {verb} {rest}.",
        "interrogative": f"Does {name} {tables.base_form(verb)} {rest}?",
        "imperative": f"{tables.base_form(verb).capitalize()} {rest}, {name}.",
        "exclamatory": f"How well {name} {verb} {rest}!",
    }
    kind = rng.choice(tuple(kinds))
    others = [k for k in kinds if k != kind]
    return ProblemDraft(
        f"What kind of sentence is this?\n{kinds[kind]}",
        (kind, *rng.sample(others, rng.randint(2, 3))),
        f"Look at how the sentence starts and ends. It is {kind}.",
    )


FIGURES = {
    "simile": (
        "{}'s hair is like silk.", "{} is as busy as a bee.", "{} runs like the wind.", "{} sleeps like a stone.",
        "The voice of {} is as clear as a bell.", "{} swims like a fish.", "The hands of {} are as cold as ice.",
    ),
    "personification": (
        "The leaves danced for {}.", "The sun smiled at {}.", "The old door groaned at {}.", "The wind called {}.",
        "The clock told {} to go.", "The city never sleeps, says {}.", "The waves kissed the feet of {}.",
    ),
    "hyperbole": (
        "{} has a million things to do.", "The bag of {} weighs a ton.", "{} waited forever.",
        "{} could eat a whole horse.",
        "{} cried a river.", "{} has told it a thousand times.", "The feet of {} are killing {}.",
    ),
}  # fmt: skip


def figure(rng: Random) -> ProblemDraft:
    """Which figure of speech does a text use? Each text is written for one of them."""
    kind = rng.choice(tuple(FIGURES))
    name = rng.choice(tables.NAMES)
    others = [k for k in FIGURES if k != kind]
    return ProblemDraft(
        f"Which figure of speech is used in this text?\n{rng.choice(FIGURES[kind]).format(name, name)}",
        (kind, *rng.sample(others, rng.randint(1, 2))),
        f"The text is not meant word for word. It uses {kind}.",
    )


def animals(rng: Random) -> ProblemDraft:
    """Which animal is a mammal, bird, fish or reptile? The only one from that group."""
    kind, *others = rng.sample(tuple(tables.ANIMALS), rng.randint(2, 4))
    answer = rng.choice(tables.ANIMALS[kind])
    return ProblemDraft(
        f"Select the {kind} below.",
        (answer, *(rng.choice(tables.ANIMALS[k]) for k in others)),
        f"The {answer} is a {kind}. The other animals belong to other groups.",
    )


def matter(rng: Random) -> ProblemDraft:
    """Which thing is a solid, liquid or gas? The only one in that state."""
    states = {"solid": tables.SOLIDS, "liquid": tables.LIQUIDS, "gas": tables.GASES}
    state, *others = rng.sample(tuple(states), rng.randint(2, 3))
    answer = rng.choice(states[state])
    return ProblemDraft(
        f"Select the {state}.",
        (answer, *(rng.choice(states[s]) for s in others)),
        f"Of these, only {answer} is a {state}.",
    )


def traits(rng: Random) -> ProblemDraft:
    """Is a trait inherited or acquired? It is inherited if people are born with it."""
    kind = rng.choice(("inherited", "acquired"))
    trait = rng.choice(tables.INHERITED if kind == "inherited" else tables.ACQUIRED)
    name = rng.choice(tables.NAMES)
    return ProblemDraft(
        f"Is the following trait inherited or acquired?\n{name} has {trait}.",
        put_first(("inherited", "acquired"), kind),
        f"{name} {'was born with' if kind == 'inherited' else 'was not born with'} {trait}. So the trait is {kind}.",
        "An acquired trait is not passed down from parents.",
    )


WEATHER = (
    "It snowed in {} last night.", "There was a storm in {} on Monday.", "It is raining in {} today.",
    "The wind in {} was strong this morning.", "The sky over {} is clear today.", "Thick fog lay over {} yesterday.",
    "It hailed in {} on Friday.", "A warm breeze blew in {} this afternoon.",
)  # fmt: skip
CLIMATE = (
    "Winters in {} are usually mild.", "Most summers in {} are dry.", "It often rains in {} in spring.",
    "On average, {} is sunny all year.", "Each year {} has a long dry season.", "Snow usually falls in {} each winter.",
    "Summers in {} are usually hot.", "Most years, {} has little wind.",
)  # fmt: skip


def weather(rng: Random) -> ProblemDraft:
    """Does a passage describe weather or climate? Weather is at one time, climate over many years."""
    kind = rng.choice(("weather", "climate"))
    lines = rng.sample(WEATHER if kind == "weather" else CLIMATE, 2)
    place = rng.choice(tables.CITIES)
    when = "at one time" if kind == "weather" else "over many years"
    return ProblemDraft(
        "Does this passage describe the weather or the climate?",
        put_first(("weather", "climate"), kind),
        f"The passage tells what it is like in {place} {when}. So it describes the {kind}.",
        " ".join(lines).format(place, place),
    )


def goods(rng: Random) -> ProblemDraft:
    """Which thing is a good or a service? A good can be held, a service is work for someone else."""
    kind = rng.choice(("good", "service"))
    right, wrong = (tables.GOODS, tables.SERVICES) if kind == "good" else (tables.SERVICES, tables.GOODS)
    answer = rng.choice(right)
    return ProblemDraft(
        f"Which of the following is a {kind}?",
        tuple(f"a {x}" for x in (answer, *rng.sample(wrong, rng.randint(1, 3)))),
        f"A good can be held; a service is work that one person does for another. A {answer} is a {kind}.",
    )


MARKET = {
    ("supply", "went up"): (
        "Many new farms now grow {}.", "More shops in {} now sell {}.", "It has become cheap to make {}.",
    ),
    ("supply", "went down"): (
        "Half of the farms that grew {} have closed.", "Fewer shops in {} now sell {}.",
        "It has become costly to make {}.",
    ),
    ("demand", "went up"): (
        "Everyone in {} wants to buy {}.", "More and more people like {}.", "A famous singer has praised {}.",
    ),
    ("demand", "went down"): (
        "Nobody in {} wants {} any more.", "Fewer and fewer people like {}.", "A famous singer has laughed at {}.",
    ),
}  # fmt: skip


def market(rng: Random) -> ProblemDraft:
    """What happened to supply or demand? The news is about sellers or buyers, and about more or less."""
    (force, way), lines = rng.choice(tuple(MARKET.items()))
    ware, place, line = rng.choice(tables.WARES), rng.choice(tables.CITIES), rng.choice(lines)
    hint = line.format(*((place, ware) if line.count("{}") == 2 else (ware,)))
    return ProblemDraft(
        f"What probably happened to the overall {force} of {ware}?",
        tuple(f"The {force} probably {w}." for w in put_first(("went up", "went down"), way)),
        f"It is about {'sellers' if force == 'supply' else 'buyers'}: the {force} of {ware} probably {way}.",
        f"{rng.choice(tables.NAMES)} reads the news. {hint}",
    )


def genotype(rng: Random) -> ProblemDraft:
    """What is an animal's phenotype? The dominant trait, unless both alleles are recessive."""
    animal, big, small, dominant, recessive = rng.choice(tables.GENES)
    if rng.random() < 0.5:
        dominant, recessive = recessive, dominant
    name = rng.choice((*tables.PETS, *tables.NAMES))
    shows = rng.random() < 0.5
    genes = rng.choice((big + big, big + small)) if shows else small + small
    answer, other = (dominant, recessive) if shows else (recessive, dominant)
    return ProblemDraft(
        f"Based on this information, what is {name}'s phenotype?",
        (answer, other),
        f"In {genes} {'there is a dominant allele' if shows else 'both alleles are recessive'}: {answer}.",
        f"The allele {big} for {dominant} is dominant over the allele {small} for {recessive}. "
        f"The {animal} {name} has the genotype {genes}.",
    )
