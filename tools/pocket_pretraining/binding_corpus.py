"""The text-only part of the pretraining corpus, which teaches letters and choices.

Knows no question of the pocket world: it shares the names of objects, but no question, option or hint.
"""

from __future__ import annotations

from random import Random

from lora_mm.pocket import tables
from tools.pocket_pretraining.samples import (
    ANSWER_WEIGHT,
    LETTER_WEIGHT,
    LETTERS,
    REVEAL_RATE,
    WORDS_RATE,
    Pieces,
    Question,
    Sample,
    format_options,
    make_turn,
    recite,
)  # fmt: skip
from tools.pocket_pretraining.vocabulary import FIRST_WORDS, KINDS, MARKS, NUMBERS, PLACES, THINGS, TINTS, TOPICS, WORDS


def bare(rng: Random) -> Sample:
    """``red. A blue B red`` → ``B``: a word, lettered words, the letter. Only the letter has a loss."""
    words = rng.sample(FIRST_WORDS, rng.randint(2, 5))
    answer = rng.randrange(len(words))
    plain = " ".join(f"{LETTERS[n]} {w}" for n, w in enumerate(words))
    listed = " " + (plain if rng.random() < 0.5 else format_options(words))
    text = f" {words[answer]}.{listed} ASSISTANT:" if rng.random() < 0.6 else f"{listed}. {words[answer]} ASSISTANT:"
    return Sample("bare", [(text, 0.0), (f" {LETTERS[answer]}", LETTER_WEIGHT)])


def bridge(rng: Random) -> Sample:
    """Between the bare form and the exam: random parts of the exam's form are included. Options are single words."""
    words = rng.sample(FIRST_WORDS, rng.randint(2, 5))
    answer = rng.randrange(len(words))
    text = (
        rng.choice(("", "USER:", "USER: Question:", "USER: Question: Choose", "USER: Question: Which one says"))
        + f" {words[answer]}"
        + rng.choice((".", "?", ".\nContext: N/A\nOptions:", "?\nContext: N/A\nOptions:", "?\nOptions:"))
        + f" {format_options(words)}"
        + rng.choice((" ASSISTANT:", "\nResponse: ASSISTANT:", "\nResponse: ASSISTANT: The answer is"))
    )
    return Sample("bare", [(text, 0.0), (f" {LETTERS[answer]}", LETTER_WEIGHT)])


def named(rng: Random, words_rate: float = WORDS_RATE) -> Sample:
    """Choose the named word or phrase, in the exam's form.

    Args:
        rng: source of randomness.
        words_rate: see :data:`~.samples.WORDS_RATE`.
    """
    make = rng.choice(
        (
            lambda: rng.choice(WORDS),
            lambda: f"the {rng.choice(TINTS)} {rng.choice(THINGS)}",
            lambda: " ".join(rng.sample(WORDS, rng.randint(2, 4))),
        )
    )
    texts = list(dict.fromkeys(make() for _ in range(rng.randint(4, 7))))[: rng.randint(2, 5)]
    if len(texts) < 2:
        return named(rng, words_rate)
    text = rng.choice(("Choose {}.", "Pick {}.", "Where is {}?", "Which one says {}?")).format(texts[0])
    return Sample("binding", make_turn(rng, Question(text, texts[0], texts[1:]), words_rate=words_rate))


def recall(rng: Random) -> Sample:
    """Pairs of words, then the same pairs in another order: each second word can be looked up. No questions."""
    count = rng.randint(3, 6)
    pools = (THINGS, TINTS, PLACES, NUMBERS, MARKS, tables.NAMES, WORDS)
    first, second = rng.sample(pools, 2)
    pairs = list(zip(rng.sample(first, count), rng.sample(second, count), strict=True))
    join = rng.choice((" is", " has", " means", ":", " for", " on the", " and the"))
    pieces = [(" ".join(f"{a}{join} {b}." for a, b in pairs) + "\n", 0.0)]
    for a, b in rng.sample(pairs, count):
        pieces += [(f"{a}{join}", 0.0), (f" {b}", ANSWER_WEIGHT), (". ", 0.0)]
    return Sample("recall", pieces)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _make_passage(rng: Random) -> tuple[str, list[Question]]:
    """Write a passage of facts about things, and questions about it."""
    count = rng.randint(2, 4)
    things, tints, places = rng.sample(THINGS, count), rng.sample(TINTS, count), rng.sample(PLACES, count)
    owners = rng.sample(tables.NAMES, count)
    questions, sentences = [], []
    form = rng.randrange(5)
    if form == 4:
        return _make_rules(rng, count)
    for n in range(count):
        thing, tint, place, owner = things[n], tints[n], places[n], owners[n]
        rest = [i for i in range(count) if i != n]
        if form == 0:
            sentences.append(f"The {thing} is {tint}.")
            questions += [
                Question(f"What colour is the {thing}?", tint, [tints[i] for i in rest]),
                Question(f"Which thing is {tint}?", f"the {thing}", [f"the {things[i]}" for i in rest]),
                Question(
                    "Which statement is true?", f"The {thing} is {tint}.", [f"The {thing} is {tints[i]}." for i in rest]
                ),
            ]
        elif form == 1:
            sentences.append(f"The {thing} is on the {place}.")
            questions += [
                Question(f"Where is the {thing}?", f"on the {place}", [f"on the {places[i]}" for i in rest]),
                Question(f"What lies on the {place}?", f"the {thing}", [f"the {things[i]}" for i in rest]),
            ]
        elif form == 2:
            sentences.append(f"{owner} has {_article(tint)} {tint} {thing}.")
            questions += [
                Question(f"Who has the {thing}?", owner, [owners[i] for i in rest]),
                Question(
                    f"What does {owner} have?",
                    f"{_article(tint)} {tint} {thing}",
                    [f"{_article(tints[i])} {tints[i]} {things[i]}" for i in rest],
                ),
            ]
        else:
            sentences.append(f"{owner} has {NUMBERS[n * 2 + 1]} {thing}s.")
            questions.append(
                Question(f"How many {thing}s are there?", NUMBERS[n * 2 + 1], [NUMBERS[i * 2 + 1] for i in rest])
            )
            questions.append(Question(f"Does {owner} have {thing}s?", "yes", ["no"]))
            questions.append(Question(f"Does {owner} have {things[rest[0]]}s?", "no", ["yes"]))
    rng.shuffle(sentences)
    rng.shuffle(questions)
    return " ".join(sentences), questions


def _make_rules(rng: Random, count: int) -> tuple[str, list[Question]]:
    """Write a passage on the meaning of marks and who has one, and questions about what follows from it."""
    marks, tints, things = rng.sample(MARKS, count), rng.sample(TINTS, count), rng.sample(THINGS, count)
    phrases = [f"{_article(t)} {t} {x}" for t, x in zip(tints, things, strict=True)]
    means, bears = rng.choice((("stands for", "bears"), ("means", "has"), ("is for", "is given")))
    name, n = rng.choice((*tables.NAMES, *tables.PETS)), rng.randrange(count)
    lines = [f"The mark {m} {means} {p}." for m, p in zip(marks, phrases, strict=True)]
    rng.shuffle(lines)
    rest = [i for i in range(count) if i != n]
    return " ".join((*lines, f"{name} {bears} the mark {marks[n]}.")), [
        Question(f"What does {name} get?", phrases[n], [phrases[i] for i in rest]),
        Question(f"What {means} {phrases[n]}?", f"the mark {marks[n]}", [f"the mark {marks[i]}" for i in rest]),
        Question(f"Which mark is {name}'s?", marks[n], [marks[i] for i in rest]),
    ]


def topics(rng: Random) -> Sample:
    """Name the topic of a text, which depends on all of the text."""
    pieces: Pieces = []
    for _ in range(2):
        topic, *rest = rng.sample(list(TOPICS), rng.randint(2, 4))
        values = {kind: rng.choice(entries) for kind, entries in KINDS.items()}
        line = rng.choice(TOPICS[topic]).format(rng.choice(tables.NAMES), **values)
        text = rng.choice(("What is this text about?\n{}", "Name the topic of the text.\n{}")).format(line)
        pieces += make_turn(rng, Question(text, topic, rest), choice=rng.random() < 0.8, words_rate=WORDS_RATE)
    return Sample("binding", pieces)


def facts(rng: Random, reveal_rate: float = REVEAL_RATE, words_rate: float = WORDS_RATE) -> Sample:
    """A passage in the context, then one to three questions about it, multiple choice or open.

    Args:
        rng: source of randomness.
        reveal_rate: see :data:`~.samples.REVEAL_RATE`.
        words_rate: see :data:`~.samples.WORDS_RATE`.
    """
    passage, questions = _make_passage(rng)
    pieces: Pieces = []
    if rng.random() < 0.25:
        return Sample("binding", recite(questions, head=f"USER: {passage}\n"))
    for n, question in enumerate(questions[: rng.randint(1, 3)]):
        question.hint = passage if n == 0 else ""
        pieces += make_turn(rng, question, choice=rng.random() < 0.8, reveal_rate=reveal_rate, words_rate=words_rate)
    return Sample("binding", pieces)


def kinds(rng: Random, words_rate: float = WORDS_RATE) -> Sample:
    """Two questions such as "Which is a fruit?": each option has to be compared with the question.

    Args:
        rng: source of randomness.
        words_rate: see :data:`~.samples.WORDS_RATE`.
    """
    pieces: Pieces = []
    for _ in range(2):
        kind, *rest = rng.sample(list(KINDS), rng.randint(2, 4))
        article = rng.choice(("", "a "))
        word = rng.choice(KINDS[kind])
        if rng.random() < 0.5:
            text = rng.choice((f"Which is a {kind}?", f"Find the {kind}.", f"Which one is a kind of {kind}?"))
            question = Question(text, article + word, [article + rng.choice(KINDS[k]) for k in rest])
        else:
            text = rng.choice(
                (f"What is a {word}?", f"What kind of thing is this? {word}", f"The {word} is a kind of what?")
            )
            question = Question(text, article + kind, [article + k for k in rest])
        pieces += make_turn(rng, question, words_rate=words_rate)
    return Sample("binding", pieces)
