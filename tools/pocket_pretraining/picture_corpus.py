"""The part of the pretraining corpus with pictures: captions, questions, and labels for the vision tower.

Knows no question of the pocket world: it shares the drawings, and asks about them in other words.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from lora_mm.pocket import tables
from lora_mm.pocket.drawing import SPOT_COLOURS
from lora_mm.pocket.scenes import GRID, SCENES, Bars, Columns, Gaps, Jars, Spots, Trails, Tube, Web
from tools.pocket_pretraining.samples import (
    CAPTION_WEIGHT,
    FORM_WEIGHT,
    REVEAL_RATE,
    WORDS_RATE,
    Question,
    Sample,
    make_turn,
    recite,
)  # fmt: skip
from tools.pocket_pretraining.vocabulary import NUMBERS, TINTS

Content = tuple[str, list[Question]]
"""A caption and questions."""


EXTREMES = {
    "top": ("highest", "nearest the top"),
    "bottom": ("lowest", "nearest the bottom"),
    "left": ("furthest left", "nearest the left side"),
    "right": ("furthest right", "nearest the right side"),
}


def _about_spots(rng: Random, s: Spots) -> Content:
    colours = [c for c, *_ in s.spots]
    across, down = ([c for c, *_ in sorted(s.spots, key=lambda spot: spot[axis])] for axis in (1, 2))
    caption = f"From top to bottom: {', '.join(down)}. From left to right: {', '.join(across)}."
    wording = rng.choice(("the {}", "{}", "the {} spot", "the {} dot"))
    questions = []
    for side, words in EXTREMES.items():
        best = s.extreme(side)
        others = [wording.format(c) for c in colours if c != best]
        questions.append(Question(f"Which spot is {rng.choice(words)}?", wording.format(best), others, plain=best))
    absent = rng.choice([c for c in SPOT_COLOURS if c not in colours])
    is_present = rng.random() < 0.5
    questions.append(
        Question(f"Is there a {rng.choice(colours) if is_present else absent} spot?", *_yes_or_no(is_present))
    )
    return caption, questions


def _yes_or_no(truth: bool) -> tuple[str, list[str]]:
    """Get the right and the wrong answer to a yes-or-no question."""
    return ("yes", ["no"]) if truth else ("no", ["yes"])


def _compare_sides(
    rng: Random, side: str, names: tuple[tuple[str, str, str], ...], questions: tuple[str, ...]
) -> Question:
    """Ask for a comparison of two sides.

    Args:
        rng: source of randomness.
        side: the right answer: left, right or same.
        names: wordings of the three options; the first is the plain one.
        questions: wordings of the question.
    """
    index = ("left", "right", "same").index(side)
    options = list(rng.choice(names))
    answer = options.pop(index)
    return Question(rng.choice(questions), answer, options, plain=names[0][index])


LEFT_RIGHT = (
    ("left", "right", "same"),
    ("the left one", "the right one", "both the same"),
    ("the first", "the second", "no difference"),
)
TOP_BOTTOM = (("top", "bottom", "same"), ("the top row", "the bottom row", "both the same"), LEFT_RIGHT[2])
OPPOSITE = {"left": "right", "right": "left", "same": "same"}


def _about_jars(rng: Random, s: Jars) -> Content:
    a, b = (("many" if len(p) > 4 else "few") for p in (s.left, s.right))
    caption = f"Two jars of {s.colour} dots. Left: {a}. Right: {b}. More: {s.more}."
    wrong_colours = rng.sample([c for c in TINTS if c != s.colour], 2)
    return caption, [
        _compare_sides(rng, s.more, LEFT_RIGHT, ("Which jar has more dots?", "Which jar is fuller of dots?")),
        _compare_sides(rng, OPPOSITE[s.more], LEFT_RIGHT, ("Which jar has fewer dots?", "Which jar is emptier?")),
        Question("How many dots are in the left jar?", a, ["few" if a == "many" else "many"]),
        Question("How many dots are in the right jar?", b, ["few" if b == "many" else "many"]),
        Question("What colour are the dots?", s.colour, wrong_colours),
    ]


def _about_trails(rng: Random, s: Trails) -> Content:
    a, b = (("long" if t > 10 else "short") for t in (s.left_tail, s.right_tail))
    caption = f"Two boxes of {s.colour} balls. Left tails: {a}. Right tails: {b}. Longer: {s.more}."
    wrong_colours = rng.sample([c for c in TINTS if c != s.colour], 2)
    return caption, [
        _compare_sides(rng, s.more, LEFT_RIGHT, ("Which box has longer tails?", "Where are the balls quicker?")),
        _compare_sides(
            rng,
            OPPOSITE[s.more],
            LEFT_RIGHT,
            ("Which box has shorter tails?", "Where are the balls slower?"),
        ),
        Question("How are the tails on the left?", a, ["short" if a == "long" else "long"]),
        Question("How are the tails on the right?", b, ["short" if b == "long" else "long"]),
        Question("What colour are the balls?", s.colour, wrong_colours),
    ]


def _about_bars(rng: Random, s: Bars) -> Content:
    same = "same" if s.same else "different"
    caption = f"Two bars. Ends: {', '.join(s.ends)}. Where they meet: {s.ends[1]} and {s.ends[2]}, {same}."
    pair = f"{s.ends[1]} and {s.ends[2]}"
    a, b = s.ends[:2]
    return caption, [
        Question("Are the ends that meet of one colour?", "yes" if s.same else "no", ["no" if s.same else "yes"]),
        Question("Compare the two ends that meet.", same, ["different" if s.same else "same"]),
        Question(
            "Which two ends meet?", pair, [p for p in (f"{x} and {y}" for x in (a, b) for y in (a, b)) if p != pair]
        ),
        Question("What colour is the first end?", a, [b]),
        Question("What colour is the last end?", s.ends[3], [s.ends[2]]),
        Question(
            "Do the bars lie or stand?",
            "they stand" if s.upright else "they lie",
            ["they lie" if s.upright else "they stand"],
        ),
    ]


def _about_gaps(rng: Random, s: Gaps) -> Content:
    a, b = (("far apart" if g > 20 else "close together") for g in (s.top, s.bottom))
    caption = f"Two rows of bars. Top: {a}. Bottom: {b}. Wider gap: {s.wider}."
    side = {"top": "left", "bottom": "right", "same": "same"}[s.wider]
    return caption, [
        _compare_sides(
            rng, side, TOP_BOTTOM, ("Which row has the wider gap?", "In which row are the bars further apart?")
        ),
        _compare_sides(
            rng, OPPOSITE[side], TOP_BOTTOM, ("Which row has the smaller gap?", "In which row are the bars nearer?")
        ),
        Question("How are the bars in the top row?", a, ["close together" if a == "far apart" else "far apart"]),
        Question("How are the bars in the bottom row?", b, ["close together" if b == "far apart" else "far apart"]),
    ]


FULL = ("empty", "a little full", "half full", "nearly full", "full")


def _about_tube(rng: Random, s: Tube) -> Content:
    level = FULL[s.level]
    caption = f"A tube with {NUMBERS[s.level]} marks of red, {level}."
    rest = [f for f in FULL if f != level]
    mark = f"mark {NUMBERS[s.level]}"
    return caption, [
        Question("How full is the tube?", level, rest),
        Question("Up to which mark does the red go?", mark, [f"mark {NUMBERS[n]}" for n in range(5) if n != s.level]),
        Question("Is the red above the middle?", "yes" if s.level > 2 else "no", ["no" if s.level > 2 else "yes"]),
        Question("Is the red below the middle?", "yes" if s.level < 2 else "no", ["no" if s.level < 2 else "yes"]),
    ]


def _about_columns(rng: Random, s: Columns) -> Content:
    across = [c for c, _ in s.columns]
    down = [c for c, _ in sorted(s.columns, key=lambda column: -column[1])]
    caption = f"Columns from tall to short: {', '.join(down)}. From left to right: {', '.join(across)}."
    wording = rng.choice(("the {}", "{}", "the {} column"))
    questions = []
    for best, words in ((down[0], ("tallest", "highest")), (down[-1], ("shortest", "lowest")),
                        (across[0], ("first",)), (across[-1], ("last",))):  # fmt: skip
        others = [wording.format(c) for c in across if c != best]
        questions.append(
            Question(f"Which column is the {rng.choice(words)}?", wording.format(best), others, plain=best)
        )
    return caption, questions


CORNERS = ("at the top", "bottom left", "bottom right")


def _about_web(rng: Random, s: Web) -> Content:
    a, b, c = names = [n for n, _ in s.chain]
    caption = f"Arrows: {a} to {b}, {b} to {c}. " + " ".join(f"The {n} is {CORNERS[p]}." for n, p in s.chain)
    x = rng.randrange(3)
    corner = CORNERS[s.chain[x][1]]
    others = [f"the {n}" for n in names if n != names[x]]
    return caption, [
        Question(f"Where does the arrow from the {a} lead?", f"to the {b}", [f"to the {c}"], plain=b),
        Question(f"Where does the arrow from the {b} lead?", f"to the {c}", [f"to the {a}"], plain=c),
        Question(f"Which arrow ends at the {b}?", f"the arrow from the {a}", [f"the arrow from the {c}"], plain=a),
        Question(f"Which arrow ends at the {c}?", f"the arrow from the {b}", [f"the arrow from the {a}"], plain=b),
        Question(f"Where is the {names[x]}?", corner, [p for p in CORNERS if p != corner]),
        Question(f"What stands {corner}?", f"the {names[x]}", others, plain=names[x]),
    ]  # fmt: skip


def label_fields(scene: object) -> dict[str, str]:
    """Describe a picture as fields and values, for the lessons of the vision tower."""
    match scene:
        case Spots():
            fields = {side: scene.extreme(side) for side in EXTREMES}
            positions = {c: (x, y) for c, x, y, _ in scene.spots}
            for colour in SPOT_COLOURS:
                for n, axis in enumerate(("column", "row")):
                    near = (
                        str(min(range(4), key=lambda b: abs(GRID[b] - positions[colour][n])))
                        if colour in positions
                        else "none"
                    )
                    fields[f"{colour} {axis}"] = near
        case Jars():
            a, b = (str(len(p) > 4) for p in (scene.left, scene.right))
            fields = {"left": a, "right": b, "more": scene.more, "colour": scene.colour}
        case Trails():
            a, b = (str(t > 10) for t in (scene.left_tail, scene.right_tail))
            fields = {"left": a, "right": b, "more": scene.more, "colour": scene.colour}
        case Bars():
            fields = {f"end {n}": c for n, c in enumerate(scene.ends)}
            fields |= {"same": str(scene.same), "upright": str(scene.upright)}
        case Gaps():
            fields = {"top": str(scene.top > 20), "bottom": str(scene.bottom > 20), "wider": scene.wider}
        case Tube():
            fields = {"level": str(scene.level)}
        case Columns():
            fields = {f"column {n}": c for n, (c, _) in enumerate(scene.columns)}
            ranked = [c for c, _ in sorted(scene.columns, key=lambda c: -c[1])]
            fields |= {f"rank {n}": c for n, c in enumerate(ranked)}
        case Web():
            fields = {f"corner {p}": name for name, p in scene.chain}
            names = [n for n, _ in scene.chain]
            arrows = dict(pairwise(names))
            fields |= {f"from {name}": arrows.get(name, "none") for name in tables.CREATURES}
            next_corner = dict(pairwise([p for _, p in scene.chain]))
            fields |= {f"from corner {p}": str(next_corner.get(p)) for p in range(3)}
    kind = type(scene).__name__
    return {"kind": kind, **{f"{kind} {field}": value for field, value in fields.items()}}


QUESTIONS_ABOUT: dict[type, Callable[[Random, Any], Content]] = {
    Spots: _about_spots, Jars: _about_jars, Trails: _about_trails, Bars: _about_bars, Gaps: _about_gaps,
    Tube: _about_tube, Columns: _about_columns, Web: _about_web,
}  # fmt: skip
"""Scene → the function that writes its caption and questions."""

SCENE_WEIGHTS = (4, 3, 4, 1, 1, 1, 3, 5)
"""How often each of ``SCENES`` is drawn: scenes with more content more often."""


def picture(rng: Random, form: str | None = None) -> Sample:
    """A picture with a caption or with questions.

    Args:
        rng: source of randomness.
        form: ``caption``, ``open`` questions, multiple ``choice`` or ``mixed``; None for any.
    """
    scene = rng.choices(SCENES, SCENE_WEIGHTS)[0].random(rng)
    caption, questions = QUESTIONS_ABOUT[type(scene)](rng, scene)
    reveal_rate, words_rate = (REVEAL_RATE, WORDS_RATE) if form is None else (0.0, 0.0)
    form = form or rng.choices(("caption", "open", "choice", "mixed"), (1, 3, 8, 1))[0]
    image = scene.draw()
    if form == "caption":
        question = Question("What does the picture show?", "")
        pieces = make_turn(rng, question, picture=True)[:1]
        return Sample("caption", [*pieces, (f" {caption}", CAPTION_WEIGHT), ("</s>", FORM_WEIGHT)], image, scene)
    rng.shuffle(questions)
    if form == "open" and rng.random() < 0.6:
        return Sample("picture open", recite(questions, head="USER: <image>\n"), image, scene)
    pieces = []
    for n, question in enumerate(questions[:4]):
        choice = form == "choice" or (form == "mixed" and n > 1)
        pieces += make_turn(
            rng, question, picture=n == 0, choice=choice, reveal_rate=reveal_rate, words_rate=words_rate
        )
    return Sample("picture choice" if form == "mixed" else f"picture {form}", pieces, image, scene)
