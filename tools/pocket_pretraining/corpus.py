"""What the pocket base is pretrained on in words alone: letters, sentences, choices over other subjects.

Knows nothing of the pocket world's questions: it shares their objects' names, never a question, an option or a hint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random

from PIL import Image

from lora_mm.pocket import tables

LETTERS = "ABCDE"
THINGS = tables.words("ball box cup hat bag kite sock drum sled vase rug fan jug pen mask toy bow bead tile cube")
TINTS = tuple(tables.COLOURS)
PLACES = ["shelf", "table", "floor", "bed", "roof", "wall", "step", "desk", "bench", "mat"]
KINDS = {
    "fruit": ["apple", "pear", "plum", "grape", "lemon", "peach", "melon", "cherry", "mango", "fig"],
    "tool": ["saw", "drill", "axe", "rake", "spade", "wrench", "chisel", "file", "pliers", "shovel"],
    "toy": ["doll", "kite", "puzzle", "marble", "yoyo", "sled", "teddy", "blocks", "rattle", "top"],
    "vehicle": ["van", "truck", "tram", "bus", "train", "taxi", "tractor", "scooter", "jeep", "cart"],
    "garment": ["hat", "scarf", "glove", "sock", "dress", "shirt", "skirt", "vest", "belt", "cap"],
    "room": ["kitchen", "attic", "cellar", "hall", "bedroom", "office", "lobby", "pantry", "garage", "studio"],
    "drink": ["cocoa", "cider", "punch", "soda", "cola", "broth", "nectar", "ale", "mead", "brew"],
    "sport": ["tennis", "hockey", "rugby", "golf", "judo", "rowing", "skating", "boxing", "cricket", "polo"],
    "metal": ["iron", "copper", "zinc", "tin", "lead", "nickel", "silver", "brass", "steel", "bronze"],
    "dance": ["waltz", "tango", "polka", "rumba", "samba", "salsa", "jive", "ballet", "foxtrot", "mambo"],
    "job": ["baker", "farmer", "nurse", "pilot", "tailor", "miner", "judge", "cook", "sailor", "clerk"],
    "tree": ["oak", "elm", "pine", "birch", "maple", "cedar", "willow", "poplar", "fir", "alder"],
    "month": ["January", "April", "June", "July", "August", "March", "October", "December", "November", "February"],
    "relative": ["aunt", "uncle", "cousin", "nephew", "niece", "sister", "brother", "mother", "father", "grandson"],
    "dish": ["pizza", "stew", "salad", "curry", "pasta", "omelet", "risotto", "pancake", "burger", "pudding"],
    "flower": ["tulip", "lily", "iris", "poppy", "violet", "orchid", "dahlia", "peony", "crocus", "aster"],
    "weapon": ["sword", "spear", "arrow", "dagger", "cannon", "rifle", "lance", "sling", "catapult", "musket"],
    "shape": ["circle", "square", "triangle", "oval", "diamond", "star", "hexagon", "cone", "pyramid", "spiral"],
}
TOPICS = {
    "food": (
        "{} ate a plate of {dish}.", "{} drank some {drink} with the {fruit}.", "{} put a {fruit} into the {dish}.",
        "The {dish} of {} was too hot.", "{} likes {dish} more than {fruit} pie.",
    ),
    "work": (
        "{} is a {job} and starts at seven.", "The {job} paid {} for the week.", "{} wants to be a {job}.",
        "{} used the {tool} all day.", "The new {job} asked {} for a {tool}.",
    ),
    "play": (
        "{} won the game of {sport}.", "{} lost a {toy} and cried.", "{} trains for {sport} in {month}.",
        "The {toy} of {} has a hole.", "{} danced a {dance} with the {relative}.",
    ),
    "family": (
        "The {relative} of {} came home.", "{} wrote to the {relative} in {month}.",
        "{} has a {relative} and a {relative}.",
        "{} looks like the {relative}.", "The {relative} hugged {}.",
    ),
    "travel": (
        "{} took the {vehicle} to town.", "The {vehicle} left without {}.", "{} missed the {vehicle} in {month}.",
        "{} slept in the {vehicle}.", "{} drove a {vehicle} through the snow.",
    ),
    "garden": (
        "{} planted a {flower} under the {tree}.", "The {tree} of {} lost its leaves.", "{} cut a {flower} in {month}.",
        "{} watered the {flower}.", "A {tree} fell on the fence of {}.",
    ),
}  # fmt: skip
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
FIRST_WORDS = (*THINGS, *TINTS, *PLACES, *NUMBERS, *KINDS["fruit"], *KINDS["tool"], *KINDS["vehicle"])
"""What letters are learnt on: with a thousand words in place of these eighty, letters stay at chance for 350 steps."""
WORDS = tuple(dict.fromkeys([*FIRST_WORDS, *(w for kind in KINDS.values() for w in kind), *tables.VOCABULARY]))
"""Every word there is: a word that pretraining never shows keeps an untrained embedding, of no use to an adapter."""
MARKS = tuple(x + y for big in "BHFSMT" for x, y in ((big, big), (big, big.lower()), (big.lower(),) * 2))

LETTER, ANSWER, RECITED, WORDED, CAPTION, TEXT, FORM = 1.0, 1.0, 0.8, 0.5, 0.15, 0.2, 0.02
"""Loss weights of a token: a letter, an open answer, one straight after its question, an option given in its own words,
captions, sentences, fixed words.

A caption has thirty tokens for a letter's one: with equal weights letters are forgotten within a hundred steps of the
first pictures.
"""


TOLD = 0.25
"""How often a choice's question is followed by its answer in plain words: then only the option has to be found."""

SAID = 0.35
"""How often a choice is answered by the option's words in place of its letter, where the sample is for training."""


@dataclass
class Sample:
    """One training sequence of a ``kind``: pieces of text, each with its loss weight, after a picture or none."""

    kind: str
    pieces: list[tuple[str, float]]
    picture: Image.Image | None = None
    scene: object = None


@dataclass
class Ask:
    """One question; with choices a multiple choice, without them an open one, answered in the ``plain`` way."""

    question: str
    answer: str
    others: list[str] = field(default_factory=list)
    hint: str = ""
    plain: str = ""

    def __post_init__(self) -> None:
        self.plain = self.plain or self.answer


def _options(choices: list[str]) -> str:
    return " ".join(f"({LETTERS[n]}) {c}" for n, c in enumerate(choices))


def choose(rng: Random, ask: Ask, *, short: bool = False) -> tuple[str, str]:
    """``ask`` in the exam's form, or in a ``short`` one: the user's text and the letter of the answer."""
    others = rng.sample(ask.others, min(len(ask.others), len(LETTERS) - 1))
    choices = [ask.answer, *others]
    rng.shuffle(choices)
    if short:
        return f"{ask.question} {_options(choices)}", LETTERS[choices.index(ask.answer)]
    text = f"Question: {ask.question}\nContext: {ask.hint or 'N/A'}\nOptions: {_options(choices)}\nResponse:"
    return text, LETTERS[choices.index(ask.answer)]


def turn(
    rng: Random,
    ask: Ask,
    *,
    picture: bool = False,
    choice: bool | None = None,
    told: float = 0.0,
    said: float = 0.0,
) -> list[tuple[str, float]]:
    """One user turn and its answer; an open question when ``choice`` is false; ``told`` as TOLD, ``said`` as SAID.

    A choice's own words follow the turn directly, a letter follows "The answer is": so the two forms do not compete.
    """
    head = "USER: <image>\n" if picture else "USER: "
    if choice if choice is not None else bool(ask.others):
        if rng.random() < told:
            ask = replace(ask, question=f"{ask.question} {ask.plain}.")
        text, letter = choose(rng, ask, short=not ask.hint and rng.random() < 0.3)
        if rng.random() < said:
            return [(f"{head}{text} ASSISTANT:", 0.0), (f" {ask.answer}", WORDED), ("</s>", FORM)]
        return [(f"{head}{text} ASSISTANT:", 0.0), (" The answer is", FORM), (f" {letter}", LETTER), (".</s>", FORM)]
    question = f"{ask.hint} {ask.question}".strip()
    return [(f"{head}{question} ASSISTANT:", 0.0), (f" {ask.plain}", ANSWER), ("</s>", FORM)]


def recite(asks: list[Ask], *, head: str = "USER: ") -> list[tuple[str, float]]:
    """Questions each with its answer straight after it, so that the answer is there where the question ends.

    In the exam the options come next: they only have to be compared with what stands at the question's end.
    """
    pieces: list[tuple[str, float]] = [(head, 0.0)]
    for ask in asks:
        context = f"Context: {ask.hint}\n" if ask.hint else ""
        pieces += [(f"{context}Question: {ask.question}", 0.0), (f" {ask.plain}", RECITED), (".\n", 0.0)]
    return pieces


# Letter binding in text alone, from the barest form to several facts and several questions.


def bare(rng: Random) -> Sample:
    """``red . A blue B red →  B``: a word, lettered words, the letter; loss on the letter alone."""
    words = rng.sample(FIRST_WORDS, rng.randint(2, 5))
    answer = rng.randrange(len(words))
    plain = " ".join(f"{LETTERS[n]} {w}" for n, w in enumerate(words))
    listed = " " + (plain if rng.random() < 0.5 else _options(words))
    text = f" {words[answer]}.{listed} ASSISTANT:" if rng.random() < 0.6 else f"{listed}. {words[answer]} ASSISTANT:"
    return Sample("bare", [(text, 0.0), (f" {LETTERS[answer]}", LETTER)])


def bridge(rng: Random) -> Sample:
    """From the barest form to the exam's: each part of the exam's form is there or not; still one word an option."""
    words = rng.sample(FIRST_WORDS, rng.randint(2, 5))
    answer = rng.randrange(len(words))
    text = (
        rng.choice(("", "USER:", "USER: Question:", "USER: Question: Choose", "USER: Question: Which one says"))
        + f" {words[answer]}"
        + rng.choice((".", "?", ".\nContext: N/A\nOptions:", "?\nContext: N/A\nOptions:", "?\nOptions:"))
        + f" {_options(words)}"
        + rng.choice((" ASSISTANT:", "\nResponse: ASSISTANT:", "\nResponse: ASSISTANT: The answer is"))
    )
    return Sample("bare", [(text, 0.0), (f" {LETTERS[answer]}", LETTER)])


def named(rng: Random, said: float = SAID) -> Sample:
    """Choose the named word or the named phrase, in the exam's form."""
    make = rng.choice(
        (
            lambda: rng.choice(WORDS),
            lambda: f"the {rng.choice(TINTS)} {rng.choice(THINGS)}",
            lambda: " ".join(rng.sample(WORDS, rng.randint(2, 4))),
        )
    )
    texts = list(dict.fromkeys(make() for _ in range(rng.randint(4, 7))))[: rng.randint(2, 5)]
    if len(texts) < 2:
        return named(rng, said)
    question = rng.choice(("Choose {}.", "Pick {}.", "Where is {}?", "Which one says {}?")).format(texts[0])
    return Sample("binding", turn(rng, Ask(question, texts[0], texts[1:]), said=said))


def recall(rng: Random) -> Sample:
    """Pairs of words, then the same pairs in another order: each second word is there to be found. No question yet."""
    count = rng.randint(3, 6)
    pools = (THINGS, TINTS, PLACES, NUMBERS, MARKS, tables.NAMES, WORDS)
    first, second = rng.sample(pools, 2)
    pairs = list(zip(rng.sample(first, count), rng.sample(second, count), strict=True))
    join = rng.choice((" is", " has", " means", ":", " for", " on the", " and the"))
    pieces = [(" ".join(f"{a}{join} {b}." for a, b in pairs) + "\n", 0.0)]
    for a, b in rng.sample(pairs, count):
        pieces += [(f"{a}{join}", 0.0), (f" {b}", ANSWER), (". ", 0.0)]
    return Sample("recall", pieces)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _facts(rng: Random) -> tuple[str, list[Ask]]:
    """A passage of facts about things, and questions on it."""
    count = rng.randint(2, 4)
    things, tints, places = rng.sample(THINGS, count), rng.sample(TINTS, count), rng.sample(PLACES, count)
    owners = rng.sample(tables.NAMES, count)
    asks, sentences = [], []
    form = rng.randrange(5)
    if form == 4:
        return _rules(rng, count)
    for n in range(count):
        thing, tint, place, owner = things[n], tints[n], places[n], owners[n]
        rest = [i for i in range(count) if i != n]
        if form == 0:
            sentences.append(f"The {thing} is {tint}.")
            asks += [
                Ask(f"What colour is the {thing}?", tint, [tints[i] for i in rest]),
                Ask(f"Which thing is {tint}?", f"the {thing}", [f"the {things[i]}" for i in rest]),
                Ask(
                    "Which statement is true?", f"The {thing} is {tint}.", [f"The {thing} is {tints[i]}." for i in rest]
                ),
            ]
        elif form == 1:
            sentences.append(f"The {thing} is on the {place}.")
            asks += [
                Ask(f"Where is the {thing}?", f"on the {place}", [f"on the {places[i]}" for i in rest]),
                Ask(f"What lies on the {place}?", f"the {thing}", [f"the {things[i]}" for i in rest]),
            ]
        elif form == 2:
            sentences.append(f"{owner} has {_article(tint)} {tint} {thing}.")
            asks += [
                Ask(f"Who has the {thing}?", owner, [owners[i] for i in rest]),
                Ask(
                    f"What does {owner} have?",
                    f"{_article(tint)} {tint} {thing}",
                    [f"{_article(tints[i])} {tints[i]} {things[i]}" for i in rest],
                ),
            ]
        else:
            sentences.append(f"{owner} has {NUMBERS[n * 2 + 1]} {thing}s.")
            asks.append(Ask(f"How many {thing}s are there?", NUMBERS[n * 2 + 1], [NUMBERS[i * 2 + 1] for i in rest]))
            asks.append(Ask(f"Does {owner} have {thing}s?", "yes", ["no"]))
            asks.append(Ask(f"Does {owner} have {things[rest[0]]}s?", "no", ["yes"]))
    rng.shuffle(sentences)
    rng.shuffle(asks)
    return " ".join(sentences), asks


def _rules(rng: Random, count: int) -> tuple[str, list[Ask]]:
    """What marks stand for, who bears one of them, and what follows."""
    marks, tints, things = rng.sample(MARKS, count), rng.sample(TINTS, count), rng.sample(THINGS, count)
    phrases = [f"{_article(t)} {t} {x}" for t, x in zip(tints, things, strict=True)]
    means, bears = rng.choice((("stands for", "bears"), ("means", "has"), ("is for", "is given")))
    name, n = rng.choice((*tables.NAMES, *tables.PETS)), rng.randrange(count)
    lines = [f"The mark {m} {means} {p}." for m, p in zip(marks, phrases, strict=True)]
    rng.shuffle(lines)
    rest = [i for i in range(count) if i != n]
    return " ".join((*lines, f"{name} {bears} the mark {marks[n]}.")), [
        Ask(f"What does {name} get?", phrases[n], [phrases[i] for i in rest]),
        Ask(f"What {means} {phrases[n]}?", f"the mark {marks[n]}", [f"the mark {marks[i]}" for i in rest]),
        Ask(f"Which mark is {name}'s?", marks[n], [marks[i] for i in rest]),
    ]


def topics(rng: Random) -> Sample:
    """What a text is about: to be read off the whole of it."""
    pieces: list[tuple[str, float]] = []
    for _ in range(2):
        topic, *rest = rng.sample(list(TOPICS), rng.randint(2, 4))
        values = {kind: rng.choice(entries) for kind, entries in KINDS.items()}
        line = rng.choice(TOPICS[topic]).format(rng.choice(tables.NAMES), **values)
        question = rng.choice(("What is this text about?\n{}", "Name the topic of the text.\n{}")).format(line)
        pieces += turn(rng, Ask(question, topic, rest), choice=rng.random() < 0.8, said=SAID)
    return Sample("binding", pieces)


def facts(rng: Random, told: float = TOLD, said: float = SAID) -> Sample:
    """A passage in the context, then one to three questions on it, by letter or open."""
    passage, asks = _facts(rng)
    pieces: list[tuple[str, float]] = []
    if rng.random() < 0.25:
        return Sample("binding", recite(asks, head=f"USER: {passage}\n"))
    for n, ask in enumerate(asks[: rng.randint(1, 3)]):
        ask.hint = passage if n == 0 else ""
        pieces += turn(rng, ask, choice=rng.random() < 0.8, told=told, said=said)
    return Sample("binding", pieces)


def kinds(rng: Random, said: float = SAID) -> Sample:
    """Which of these is a fruit: each option weighs itself against the question. Two questions a sample."""
    pieces: list[tuple[str, float]] = []
    for _ in range(2):
        kind, *rest = rng.sample(list(KINDS), rng.randint(2, 4))
        article = rng.choice(("", "a "))
        word = rng.choice(KINDS[kind])
        if rng.random() < 0.5:
            question = rng.choice((f"Which is a {kind}?", f"Find the {kind}.", f"Which one is a kind of {kind}?"))
            ask = Ask(question, article + word, [article + rng.choice(KINDS[k]) for k in rest])
        else:
            question = rng.choice(
                (f"What is a {word}?", f"What kind of thing is this? {word}", f"The {word} is a kind of what?")
            )
            ask = Ask(question, article + kind, [article + k for k in rest])
        pieces += turn(rng, ask, said=said)
    return Sample("binding", pieces)


# Sentences: plain English over the words of the tables, so that no word comes new to the base.


def sentence(rng: Random) -> Sample:
    """Two to four plain sentences."""
    lines = [rng.choice(SENTENCES)(rng) for _ in range(rng.randint(2, 4))]
    return Sample(
        "sentences",
        [
            ("USER: Say something. ASSISTANT:", 0.0),
            (rng.choice((" ", "\n")) + rng.choice((" ", "\n")).join(lines), TEXT),
            ("</s>", FORM),
        ],
    )


def _one(rng: Random, words: Iterable[str]) -> str:
    return rng.choice(tuple(words))


def _animal(rng: Random) -> str:
    kind = rng.choice(tuple(tables.ANIMALS))
    animal = rng.choice(tables.ANIMALS[kind])
    signs = {
        "mammal": "has hair and feeds its young milk", "bird": "has feathers and a beak",
        "fish": "has fins and lives in water", "reptile": "has dry scales",
    }  # fmt: skip
    return rng.choice((f"The {animal} {signs[kind]}.", f"A {kind} {signs[kind]}.", f"The {animal} is a {kind}."))


def _verb(rng: Random) -> tuple[str, str]:
    """A verb in the present and the rest of its sentence."""
    verb, phrase = rng.choice(tables.PRESENT.split("|")).split(",")
    return verb, phrase.removeprefix(verb + " ")


def _tense(rng: Random) -> str:
    verb, rest = _verb(rng)
    name = _one(rng, tables.NAMES)
    return rng.choice(
        (
            f"Every day {name} {verb} {rest}.", f"Yesterday {name} {tables.past(verb)} {rest}.",
            f"Tomorrow {name} will {tables.conjugate_plain(verb)} {rest}.",
            f"Did {name} {tables.conjugate_plain(verb)} {rest}?",
            f"Please {tables.conjugate_plain(verb)} {rest}.",
            f"{tables.conjugate_plain(verb).capitalize()} {rest}!", f"How well {name} {verb} {rest}!",
        )
    )  # fmt: skip


def _season(rng: Random) -> str:
    city = _one(rng, tables.CITIES)
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


def _inherit(rng: Random) -> str:
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
    *[_animal] * 3,
    *[_tense] * 5,
    *[_season] * 3,
    *[_inherit] * 2,
    lambda r: f"{_one(r, tables.WARES).capitalize()} and {_one(r, tables.WARES)} are sold in {_one(r, tables.CITIES)}.",
    lambda r: f"{_one(r, tables.NAMES)} wants {_one(r, tables.WARES)}, not {_one(r, tables.WARES)}.",
    lambda r: f"{_one(r, tables.NAMES)} buys {r.choice(('a', 'the'))} {_one(r, tables.GOODS)} at the shop.",
    lambda r: f"{_one(r, tables.NAMES)} pays for a {_one(r, tables.SERVICES)}.",
    lambda r: f"You can hold {r.choice(('a', 'the'))} {_one(r, tables.SOLIDS)} in your hand; it keeps its shape.",
    lambda r: f"You can pour {_one(r, tables.LIQUIDS)}; it flows.",
    lambda r: f"You cannot see {_one(r, tables.GASES)}; it fills its space.",
    lambda r: f"{_one(r, tables.LENGTHS['centimeters']).capitalize()} is short.",
    lambda r: f"{_one(r, tables.LENGTHS['meters']).capitalize()} is long.",
    lambda r: f"{_one(r, tables.LENGTHS['kilometers']).capitalize()} is very long.",
    lambda r: f"{_one(r, tables.VOLUMES['milliliters']).capitalize()} holds a little water.",
    lambda r: f"{_one(r, tables.VOLUMES['liters']).capitalize()} holds much water.",
    lambda r: f"{_one(r, tables.NAMES)} was born with {_one(r, tables.INHERITED)}.",
    lambda r: f"{_one(r, tables.NAMES)} got {_one(r, tables.ACQUIRED)} last year.",
    lambda r: f"The {_one(r, tables.CREATURES)} lives near the {_one(r, ('river', 'forest', 'lake', 'meadow'))}.",
    *[lambda r: _one(r, tables.SCHOOL)] * 8,
)
