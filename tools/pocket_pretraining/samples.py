"""Pretraining samples: pieces of text with loss weights, and turns with questions. Makes no content."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from PIL import Image

LETTERS = "ABCDE"

LETTER_WEIGHT = 1.0
"""Loss weight of the token of a letter."""
ANSWER_WEIGHT = 1.0
"""Loss weight of the tokens of an open answer."""
RECITED_WEIGHT = 0.8
"""Loss weight of the tokens of an answer that directly follows its question."""
WORDS_WEIGHT = 0.5
"""Loss weight of the tokens of a choice that is answered in words."""
CAPTION_WEIGHT = 0.15
"""Loss weight of the tokens of a caption.

A caption has thirty tokens for the one token of a letter: with equal weights, letters are forgotten within a hundred
steps of the first pictures.
"""
SENTENCE_WEIGHT = 0.2
"""Loss weight of the tokens of sentences."""
FORM_WEIGHT = 0.02
"""Loss weight of fixed words, such as "The answer is"."""

REVEAL_RATE = 0.25
"""How often a multiple-choice question is followed by its answer, so that only the option remains to be found."""

WORDS_RATE = 0.35
"""How often, in training, a multiple-choice question is answered with the words of the choice instead of its letter."""


Pieces = list[tuple[str, float]]
"""Pieces of text, each with the loss weight of its tokens."""


@dataclass
class Sample:
    """One training sequence.

    Attributes:
        kind: name of its kind, for the curves.
        pieces: its text.
        picture: the picture before the text, if any.
        scene: what the picture shows.
    """

    kind: str
    pieces: Pieces
    picture: Image.Image | None = None
    scene: object = None


@dataclass
class Question:
    """A question with its answer. With wrong choices it can be asked as multiple choice.

    Attributes:
        text: the question.
        answer: the right choice.
        wrong: the wrong choices.
        hint: the context.
        plain: the answer to the open question; ``answer`` by default.
    """

    text: str
    answer: str
    wrong: list[str] = field(default_factory=list)
    hint: str = ""
    plain: str = ""

    def __post_init__(self) -> None:
        self.plain = self.plain or self.answer


def format_options(choices: list[str]) -> str:
    """``(A) red (B) blue``."""
    return " ".join(f"({LETTERS[n]}) {choice}" for n, choice in enumerate(choices))


def format_choices(rng: Random, question: Question, *, short: bool = False) -> tuple[str, str]:
    """Write a question as multiple choice.

    Args:
        rng: shuffles the choices.
        question: the question.
        short: whether to leave out the form of the exam and write question and options only.

    Returns:
        The user's text and the letter of the answer.
    """
    wrong = rng.sample(question.wrong, min(len(question.wrong), len(LETTERS) - 1))
    choices = [question.answer, *wrong]
    rng.shuffle(choices)
    letter, options = LETTERS[choices.index(question.answer)], format_options(choices)
    if short:
        return f"{question.text} {options}", letter
    text = f"Question: {question.text}\nContext: {question.hint or 'N/A'}\nOptions: {options}\nResponse:"
    return text, letter


def make_turn(
    rng: Random,
    question: Question,
    *,
    picture: bool = False,
    choice: bool | None = None,
    reveal_rate: float = 0.0,
    words_rate: float = 0.0,
) -> Pieces:
    """Make one turn of the user, and its answer.

    The words of a choice follow the turn directly, and a letter follows "The answer is", so that the two forms of
    answers do not compete.

    Args:
        rng: source of randomness.
        question: the question.
        picture: whether the turn starts with the picture.
        choice: whether to ask as multiple choice; by default, if the question has wrong choices.
        reveal_rate: see :data:`REVEAL_RATE`.
        words_rate: see :data:`WORDS_RATE`.
    """
    head = "USER: <image>\n" if picture else "USER: "
    if choice if choice is not None else bool(question.wrong):
        if rng.random() < reveal_rate:
            question = replace(question, text=f"{question.text} {question.plain}.")
        text, letter = format_choices(rng, question, short=not question.hint and rng.random() < 0.3)
        prompt = (f"{head}{text} ASSISTANT:", 0.0)
        if rng.random() < words_rate:
            return [prompt, (f" {question.answer}", WORDS_WEIGHT), ("</s>", FORM_WEIGHT)]
        return [prompt, (" The answer is", FORM_WEIGHT), (f" {letter}", LETTER_WEIGHT), (".</s>", FORM_WEIGHT)]
    text = f"{question.hint} {question.text}".strip()
    return [(f"{head}{text} ASSISTANT:", 0.0), (f" {question.plain}", ANSWER_WEIGHT), ("</s>", FORM_WEIGHT)]


def recite(questions: list[Question], *, head: str = "USER: ") -> Pieces:
    """Write questions, each directly followed by its answer, so that the model knows the answer when the question ends.

    In the exam the options follow there, and only have to be compared with that answer.

    Args:
        questions: the questions.
        head: start of the text.
    """
    pieces: Pieces = [(head, 0.0)]
    for question in questions:
        context = f"Context: {question.hint}\n" if question.hint else ""
        recited = (f" {question.plain}", RECITED_WEIGHT)
        pieces += [(f"{context}Question: {question.text}", 0.0), recited, (".\n", 0.0)]
    return pieces
