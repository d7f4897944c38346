"""Answers to look at: which questions are shown, and their pictures made small. Knows no chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_mm.data.example import PICTURE, Example, ImageSource, open_image
from lora_mm.errors import InputError
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.html.document import embed_picture
from lora_mm.evaluation.html.markup import Html, join, shortened, tag

EACH = 6
"""Questions of each kind."""
_SIDE, _QUALITY, _PICTURES = 280, 74, 3
_BUDGET = 1_500_000
"""Bytes of all pictures together; questions beyond come without."""
_TEXT = 900


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers, by the name it goes under."""

    name: str
    answers: Sequence[Answer]


def render_gallery(examples: Sequence[Example], main: Answers, against: Answers | None) -> Html:
    """Questions of every kind: learnt, lost, wrong and right; without ``against``, wrong and right.

    Of each kind every n-th is taken, in the order of the split, so that none is chosen for its looks.
    """
    groups = _groups(main, against)
    budget = [_BUDGET]
    parts = []
    for title, indices in groups.items():
        if not indices:
            continue
        step = max(1, len(indices) // EACH)
        shown = indices[::step][:EACH]
        count = f"{len(shown)} of {len(indices):,}" if len(shown) < len(indices) else f"{len(indices)}"
        cards = [_card(examples[n], [(main.name, main.answers[n])]
                       + ([(against.name, against.answers[n])] if against else []), budget) for n in shown]  # fmt: skip
        parts.append(tag("h3", title, " ", tag("span", count, class_="count")))
        parts.append(tag("div", cards, class_="cards"))
    return join(parts)


def _groups(main: Answers, against: Answers | None) -> dict[str, list[int]]:
    right = [answer.right for answer in main.answers]
    if against is None:
        return {
            "Wrong": [n for n, good in enumerate(right) if not good],
            "Right": [n for n, good in enumerate(right) if good],
        }
    before = [answer.right for answer in against.answers]
    both = list(enumerate(zip(right, before, strict=True)))
    return {
        f"Right with {main.name}, wrong with {against.name}": [n for n, (new, old) in both if new and not old],
        f"Wrong with {main.name}, right with {against.name}": [n for n, (new, old) in both if old and not new],
        "Wrong with both": [n for n, (new, old) in both if not (new or old)],
        "Right with both": [n for n, (new, old) in both if new and old],
    }


def _card(example: Example, said: Sequence[tuple[str, Answer]], budget: list[int]) -> Html:
    pictures = [_picture(source, budget) for source in example.pictures[:_PICTURES]]
    more = len(example.pictures) - _PICTURES
    if more > 0:
        pictures.append(tag("p", f"and {more} more", class_="note"))
    rows = [_said(name, answer) for name, answer in said]
    references = list(dict.fromkeys(said[0][1].references))
    wanted = " · ".join(references[:4]) + (" · …" if len(references) > 4 else "")
    rows.append(tag("div", tag("dt", "wanted"), tag("dd", _text(wanted))))
    return tag(
        "article",
        tag("div", pictures, class_="pictures") if pictures else None,
        [tag("p", tag("em", f"{turn.role}: "), _text(turn.text), class_="prompt earlier") for turn in example.history],
        tag("p", _text(example.prompt), class_="prompt"),
        tag("dl", rows),
        tag("p", example.id, class_="id"),
        class_="card",
    )


def _said(name: str, answer: Answer) -> Html:
    if answer.worth is None:
        style, mark, about = "bad", "?", "could not be read"
    elif answer.worth in (0, 1):
        style, mark, about = ("good", "✓", "right") if answer.worth else ("bad", "✗", "wrong")
    else:
        style, mark, about = ("good" if answer.right else "bad"), f"{100 * answer.worth:.0f} %", "worth so much"
    said = _text(answer.prediction) if answer.prediction.strip() else tag("em", "nothing")
    return tag("div", tag("dt", name), tag("dd", tag("span", mark, class_=f"mark {style}", title=about), said))


def _text(text: str) -> Html:
    """Text of strangers: on its own in direction, and not endless."""
    return tag("bdi", shortened(text.replace(PICTURE, "[picture]").strip(), _TEXT))


def _picture(source: ImageSource, budget: list[int]) -> Html:
    """The picture made small, inside the page; in its place a note where it cannot be shown."""
    try:
        picture = open_image(source)
    except InputError as error:
        return tag("p", str(error), class_="note")
    address = embed_picture(picture, _SIDE, _QUALITY)
    if len(address) > budget[0]:
        return tag("p", "picture left out: the page would grow too large", class_="note")
    budget[0] -= len(address)
    width, height = picture.size
    return tag("img", src=address, width=width, height=height, alt="", loading="lazy")
