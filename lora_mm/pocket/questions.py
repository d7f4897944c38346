"""The questions that the pocket world asks, in the shape of ScienceQA's own: a function each. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from lora_mm.pocket import tables
from lora_mm.pocket.drawing import Bars, Columns, Gaps, Jars, Spots, Stripes, Trails, Tube, Web

Scene = Bars | Columns | Gaps | Jars | Spots | Stripes | Trails | Tube | Web


@dataclass(frozen=True)
class Draft:
    """One problem before it has an id, a split and an order of choices; the first choice is right."""

    question: str
    choices: tuple[str, ...]
    solution: str
    hint: str = ""
    scene: Scene | None = None
    caption: str = ""


def _rest(options: tuple[str, ...], answer: str) -> tuple[str, ...]:
    """All options, the right one first."""
    return (answer, *(o for o in options if o != answer))


def magnets(rng: Random) -> Draft:
    scene = Bars.random(rng)
    answer, like = ("repel", "alike") if scene.same else ("attract", "different")
    return Draft(
        "Will these magnets attract or repel each other?",
        _rest(("attract", "repel"), answer),
        f"The poles that face each other are {like}. These magnets will {answer} each other.",
        "Two magnets are placed as shown. The two colors mark the two poles of a magnet.",
        scene,
        "Two bar magnets, one beside the other.",
    )


def concentration(rng: Random) -> Draft:
    scene = Jars.random(rng)
    neither = "neither; their concentrations are the same"
    answer = {"left": "Solution A", "right": "Solution B", "same": neither}[scene.more]
    return Draft(
        f"Which solution has a higher concentration of {scene.colour} particles?",
        _rest(("Solution A", "Solution B", neither), answer),
        f"In equal volumes, Solution A has {len(scene.left)} particles and Solution B {len(scene.right)}: {answer}.",
        f"The model shows Solution A and Solution B. Each {scene.colour} ball is one particle of solute.",
        scene,
        "Two beakers of the same size with colored particles.",
    )


DIRECTIONS = {"north": "top", "south": "bottom", "west": "left", "east": "right"}


def cardinal(rng: Random) -> Draft:
    scene = Spots.random(rng)
    direction = rng.choice(tuple(DIRECTIONS))
    answer = scene.extreme(DIRECTIONS[direction])
    colours = [c for c, *_ in scene.spots if c != answer]
    return Draft(
        f"Which of these islands is farthest {direction}?",
        (f"the {answer} island", *(f"the {c} island" for c in rng.sample(colours, rng.randint(2, 3)))),
        f"Look for the side of the map that is {direction}. The {answer} island lies closest to that side.",
        "",
        scene,
        "A map of the sea with four islands.",
    )


def temperature(rng: Random) -> Draft:
    scene = Trails.random(rng)
    neither = "neither; the samples have the same temperature"
    answer = {"left": "sample A", "right": "sample B", "same": neither}[scene.more]
    return Draft(
        "Compare the motion of the particles. Which sample has the higher temperature?",
        _rest(("sample A", "sample B", neither), answer),
        f"A longer trail means a higher speed, and a higher average speed a higher temperature: {answer}.",
        "The diagrams show two pure samples of gas. A trail shows the speed of a particle.",
        scene,
        "Two containers of gas particles with trails.",
    )


def food_web(rng: Random) -> Draft:
    scene = Web.random(rng)
    names = [n for n, _ in scene.chain]
    eaten = rng.randrange(2)
    others = tuple(n for n in names if n not in (names[eaten], names[eaten + 1]))
    return Draft(
        f"Based on the food web, which organism eats the {names[eaten]}?",
        (names[eaten + 1], *others),
        f"An arrow leads from the {names[eaten]} to the {names[eaten + 1]}, which eats it.",
        "In this food web, an arrow shows where the matter goes when one organism eats another.",
        scene,
        "A food web of three organisms with arrows between them.",
    )


def magnet_pairs(rng: Random) -> Draft:
    scene = Gaps.random(rng)
    say = {
        "bottom": "The magnetic force is stronger in Pair 1.",
        "top": "The magnetic force is stronger in Pair 2.",
        "same": "The strength of the magnetic force is the same in both pairs.",
    }
    return Draft(
        "Think about the force between the magnets in each pair. Which statement is true?",
        _rest(tuple(say.values()), say[scene.wider]),
        f"Magnets that are closer together pull each other with a stronger force. {say[scene.wider]}",
        "The picture shows Pair 1 and, below it, Pair 2. All the magnets are alike.",
        scene,
        "Two pairs of magnets, one pair above the other.",
    )


def thermometer(rng: Random) -> Draft:
    scene = Tube.random(rng)
    values = [f"{20 * n}°C" for n in range(5)]
    answer = values.pop(scene.level)
    return Draft(
        "Select the temperature shown by this thermometer.",
        (answer, *rng.sample(values, rng.randint(2, 3))),
        f"The marks stand for 0°C, 20°C, 40°C, 60°C and 80°C. The red liquid ends at {answer}.",
        "",
        scene,
        "A thermometer with five marks.",
    )


def graph(rng: Random) -> Draft:
    scene = Columns.random(rng)
    ware = rng.choice(tables.WARES)
    word, which = rng.choice((("most", "tallest"), ("least", "shortest")))
    answer = scene.extreme(which)
    others = [c for c, _ in scene.columns if c != answer]
    return Draft(
        f"Based on the graph, which shop earned the {word} from {ware}?",
        (f"the {answer} shop", *(f"the {c} shop" for c in rng.sample(others, rng.randint(2, 3)))),
        f"The {answer} bar is the one that stands for the {word} money. So it is the {answer} shop.",
        "",
        scene,
        f"A bar graph of what four shops earned from {ware}.",
    )


def _estimate(rng: Random, table: Mapping[str, tuple[str, ...]], ask: str) -> Draft:
    unit = rng.choice(tuple(table))
    thing = rng.choice(table[unit])
    number = rng.randint(2, 40)
    other = rng.sample([u for u in table if u != unit], rng.randint(1, len(table) - 1))
    return Draft(
        ask.format(thing),
        tuple(f"{number} {u}" for u in (unit, *other)),
        f"The better estimate for {thing} is {number} {unit}; what else is offered is too far from it.",
        "Select the better estimate.",
    )


def length(rng: Random) -> Draft:
    return _estimate(rng, tables.LENGTHS, "How long is {}?")


def volume(rng: Random) -> Draft:
    return _estimate(rng, tables.VOLUMES, "What is the volume of {}?")


def _action(rng: Random) -> tuple[str, str, str]:
    """A name, a verb of the tables and the rest of the sentence."""
    verb, phrase = rng.choice(tables.PRESENT.split("|")).split(",")
    return rng.choice(tables.NAMES), verb, phrase.removeprefix(f"{verb} ")


def tense(rng: Random) -> Draft:
    name, verb, rest = _action(rng)
    which = rng.choice(("past tense", "present tense", "future tense"))
    future = f"will {tables.conjugate_plain(verb)}"
    form = {"past tense": tables.past(verb), "present tense": verb, "future tense": future}[which]
    return Draft(
        f"Which tense does the sentence use?\n{name} {form} {rest}.",
        _rest(("past tense", "present tense", "future tense"), which),
        f"The verb is {form}. It is in the {which}.",
    )


def sentence_kind(rng: Random) -> Draft:
    name, verb, rest = _action(rng)
    kinds = {
        "declarative": f"{name} {verb} {rest}.",
        "interrogative": f"Does {name} {tables.conjugate_plain(verb)} {rest}?",
        "imperative": f"{tables.conjugate_plain(verb).capitalize()} {rest}, {name}.",
        "exclamatory": f"How well {name} {verb} {rest}!",
    }
    kind = rng.choice(tuple(kinds))
    others = [k for k in kinds if k != kind]
    return Draft(
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


def figure(rng: Random) -> Draft:
    kind = rng.choice(tuple(FIGURES))
    name = rng.choice(tables.NAMES)
    others = [k for k in FIGURES if k != kind]
    return Draft(
        f"Which figure of speech is used in this text?\n{rng.choice(FIGURES[kind]).format(name, name)}",
        (kind, *rng.sample(others, rng.randint(1, 2))),
        f"The text is not meant word for word. It uses {kind}.",
    )


def animals(rng: Random) -> Draft:
    kind, *others = rng.sample(tuple(tables.ANIMALS), rng.randint(2, 4))
    answer = rng.choice(tables.ANIMALS[kind])
    return Draft(
        f"Select the {kind} below.",
        (answer, *(rng.choice(tables.ANIMALS[k]) for k in others)),
        f"The {answer} is a {kind}. The other animals belong to other groups.",
    )


def matter(rng: Random) -> Draft:
    states = {"solid": tables.SOLIDS, "liquid": tables.LIQUIDS, "gas": tables.GASES}
    state, *others = rng.sample(tuple(states), rng.randint(2, 3))
    answer = rng.choice(states[state])
    return Draft(
        f"Select the {state}.",
        (answer, *(rng.choice(states[s]) for s in others)),
        f"Of these, only {answer} is a {state}.",
    )


def traits(rng: Random) -> Draft:
    kind = rng.choice(("inherited", "acquired"))
    trait = rng.choice(tables.INHERITED if kind == "inherited" else tables.ACQUIRED)
    name = rng.choice(tables.NAMES)
    return Draft(
        f"Is the following trait inherited or acquired?\n{name} has {trait}.",
        _rest(("inherited", "acquired"), kind),
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


def weather(rng: Random) -> Draft:
    kind = rng.choice(("weather", "climate"))
    lines = rng.sample(WEATHER if kind == "weather" else CLIMATE, 2)
    place = rng.choice(tables.CITIES)
    when = "at one time" if kind == "weather" else "over many years"
    return Draft(
        "Does this passage describe the weather or the climate?",
        _rest(("weather", "climate"), kind),
        f"The passage tells what it is like in {place} {when}. So it describes the {kind}.",
        " ".join(lines).format(place, place),
    )


def goods(rng: Random) -> Draft:
    kind = rng.choice(("good", "service"))
    right, wrong = (tables.GOODS, tables.SERVICES) if kind == "good" else (tables.SERVICES, tables.GOODS)
    answer = rng.choice(right)
    return Draft(
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


def market(rng: Random) -> Draft:
    (force, way), lines = rng.choice(tuple(MARKET.items()))
    ware, place, line = rng.choice(tables.WARES), rng.choice(tables.CITIES), rng.choice(lines)
    hint = line.format(*((place, ware) if line.count("{}") == 2 else (ware,)))
    return Draft(
        f"What probably happened to the overall {force} of {ware}?",
        tuple(f"The {force} probably {w}." for w in _rest(("went up", "went down"), way)),
        f"It is about {'sellers' if force == 'supply' else 'buyers'}: the {force} of {ware} probably {way}.",
        f"{rng.choice(tables.NAMES)} reads the news. {hint}",
    )


def genotype(rng: Random) -> Draft:
    animal, big, small, dominant, recessive = rng.choice(tables.GENES)
    if rng.random() < 0.5:
        dominant, recessive = recessive, dominant
    name = rng.choice((*tables.PETS, *tables.NAMES))
    shows = rng.random() < 0.5
    genes = rng.choice((big + big, big + small)) if shows else small + small
    answer, other = (dominant, recessive) if shows else (recessive, dominant)
    return Draft(
        f"Based on this information, what is {name}'s phenotype?",
        (answer, other),
        f"In {genes} {'there is a dominant allele' if shows else 'both alleles are recessive'}: {answer}.",
        f"The allele {big} for {dominant} is dominant over the allele {small} for {recessive}. "
        f"The {animal} {name} has the genotype {genes}.",
    )


QUARTERS = ("top left", "top right", "bottom left", "bottom right")


def upright_cloth(rng: Random) -> Draft:
    scene = Stripes.random(rng)
    answer = QUARTERS[scene.upright]
    return Draft(
        "Four cloths are shown. Which one has stripes that run up and down?",
        _rest(QUARTERS, answer),
        f"The stripes of the {answer} cloth run up and down, the others' run across.",
        "",
        scene,
        "Four pieces of cloth with fine stripes.",
    )
