"""Chooses questions to show with their answers, and shrinks their pictures. Knows no chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_mm.data.example import PICTURE, Example, ImageSource, Turn, open_image
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer
from lora_mm.html.picture import Picture, embed_picture
from lora_mm.html.render import truncate_text

_QUESTIONS_PER_GROUP = 6
_PICTURES_PER_QUESTION = 3
_THUMBNAIL, _QUALITY = 280, 74
"""Longest side of a picture in pixels, and its JPEG quality."""
_PICTURE_BUDGET = 1_500_000
"""Bytes of all pictures together; questions beyond that are shown without pictures."""
_MAX_TEXT = 900
"""Maximum number of characters of a question or an answer."""


@dataclass(frozen=True, slots=True)
class NamedAnswers:
    """One model's answers and the name of the model."""

    name: str
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One model's answer on a card.

    Attributes:
        name: name of the model.
        text: its answer.
        mark: a sign or a percentage that says how good the answer is.
        meaning: the mark in words.
        style: class of the mark, ``good`` or ``bad``.
    """

    name: str
    text: str
    mark: str
    meaning: str
    style: str


@dataclass(frozen=True, slots=True)
class AnswerCard:
    """One question and its answers.

    Attributes:
        id: id of the question.
        prompt: the question.
        history: earlier turns.
        pictures: the first few pictures.
        more_pictures: number of pictures left out.
        verdicts: each model's answer.
        expected: the right answers.
    """

    id: str
    prompt: str
    history: Sequence[Turn]
    pictures: Sequence[Picture]
    more_pictures: int
    verdicts: Sequence[Verdict]
    expected: str


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that were answered alike: for example, right with the adapter and wrong with the base.

    Attributes:
        title: how they were answered.
        count: number of questions, and how many of them are shown.
        cards: the questions shown.
    """

    title: str
    count: str
    cards: Sequence[AnswerCard]


def make_gallery(examples: Sequence[Example], answers: NamedAnswers, baseline: NamedAnswers | None) -> list[Group]:
    """Choose questions of every kind: wrong and right; with a baseline also gained and lost.

    Each group shows every n-th of its questions, in the order of the split, so that none is hand-picked.

    Args:
        examples: the questions.
        answers: a model's answers, in the order of ``examples``.
        baseline: another model's answers, in the same order.

    Returns:
        The groups that have questions.
    """
    models = [answers, *([baseline] if baseline else [])]
    budget = _PictureBudget(_PICTURE_BUDGET)
    gallery = []
    for title, indices in _group_questions(answers, baseline).items():
        if not indices:
            continue
        step = max(1, len(indices) // _QUESTIONS_PER_GROUP)
        shown = indices[::step][:_QUESTIONS_PER_GROUP]
        count = f"{len(shown)} of {len(indices):,}" if len(shown) < len(indices) else f"{len(indices)}"
        cards = [
            _make_card(examples[index], [(model.name, model.answers[index]) for model in models], budget)
            for index in shown
        ]
        gallery.append(Group(title, count, cards))
    return gallery


def _group_questions(answers: NamedAnswers, baseline: NamedAnswers | None) -> dict[str, list[int]]:
    """Return the title of each group and the indices of its questions."""
    correct = [answer.correct for answer in answers.answers]
    if baseline is None:
        return {
            "Wrong": [index for index, is_correct in enumerate(correct) if not is_correct],
            "Right": [index for index, is_correct in enumerate(correct) if is_correct],
        }
    titles = {
        (True, False): f"Right with {answers.name}, wrong with {baseline.name}",
        (False, True): f"Wrong with {answers.name}, right with {baseline.name}",
        (False, False): "Wrong with both",
        (True, True): "Right with both",
    }
    groups: dict[str, list[int]] = {title: [] for title in titles.values()}
    for index, (first, second) in enumerate(zip(correct, baseline.answers, strict=True)):
        groups[titles[first, second.correct]].append(index)
    return groups


class _PictureBudget:
    """Embeds pictures until their bytes are used up."""

    def __init__(self, size: int) -> None:
        self.left = size

    def embed(self, source: ImageSource) -> Picture:
        """Embed a picture, or say why it is not shown."""
        try:
            picture = open_image(source)
        except InputError as error:
            return Picture(note=str(error))
        embedded = embed_picture(picture, _THUMBNAIL, _QUALITY)
        if len(embedded.url) > self.left:
            return Picture(note="picture left out: the page would grow too large")
        self.left -= len(embedded.url)
        return embedded


def _make_card(example: Example, answers: Sequence[tuple[str, Answer]], budget: _PictureBudget) -> AnswerCard:
    references = list(dict.fromkeys(answers[0][1].references))
    return AnswerCard(
        id=example.id,
        prompt=_shorten(example.prompt),
        history=[Turn(turn.role, _shorten(turn.text)) for turn in example.history],
        pictures=[budget.embed(source) for source in example.pictures[:_PICTURES_PER_QUESTION]],
        more_pictures=max(0, len(example.pictures) - _PICTURES_PER_QUESTION),
        verdicts=[_make_verdict(name, answer) for name, answer in answers],
        expected=_shorten(" · ".join(references[:4]) + (" · …" if len(references) > 4 else "")),
    )


def _make_verdict(name: str, answer: Answer) -> Verdict:
    if answer.credit is None:
        mark, meaning = "?", "could not be parsed"
    elif answer.credit in (0, 1):
        mark, meaning = ("✓", "right") if answer.credit else ("✗", "wrong")
    else:
        mark, meaning = f"{100 * answer.credit:.0f} %", "partial credit"
    return Verdict(name, _shorten(answer.prediction), mark, meaning, "good" if answer.correct else "bad")


def _shorten(text: str) -> str:
    return truncate_text(text.replace(PICTURE, "[picture]").strip(), _MAX_TEXT)
