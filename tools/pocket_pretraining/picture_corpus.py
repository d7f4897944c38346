"""What the pocket base is pretrained on in pictures: captions, open questions, choices, and the tower's own labels.

Knows nothing of the pocket world's questions: it shares their drawings, and asks in words that they do not use.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from lora_mm.pocket import tables
from lora_mm.pocket.drawing import BANDS, SCENES, SPOT_COLOURS, Bars, Columns, Gaps, Jars, Spots, Trails, Tube, Web
from tools.pocket_pretraining.corpus import CAPTION, FORM, NUMBERS, SAID, TINTS, TOLD, Ask, Sample, recite, turn

Facts = tuple[str, list[Ask]]


EXTREMES = {
    "top": ("highest", "nearest the top"),
    "bottom": ("lowest", "nearest the bottom"),
    "left": ("furthest left", "nearest the left side"),
    "right": ("furthest right", "nearest the right side"),
}


def _spots(rng: Random, s: Spots) -> Facts:
    colours = [c for c, *_ in s.spots]
    across, down = ([c for c, *_ in sorted(s.spots, key=lambda spot: spot[axis])] for axis in (1, 2))
    caption = f"From top to bottom: {', '.join(down)}. From left to right: {', '.join(across)}."
    wear = rng.choice(("the {}", "{}", "the {} spot", "the {} dot"))
    asks = []
    for side, words in EXTREMES.items():
        best = s.extreme(side)
        others = [wear.format(c) for c in colours if c != best]
        asks.append(Ask(f"Which spot is {rng.choice(words)}?", wear.format(best), others, plain=best))
    absent = rng.choice([c for c in SPOT_COLOURS if c not in colours])
    there = rng.random() < 0.5
    asks.append(Ask(f"Is there a {rng.choice(colours) if there else absent} spot?", *_yes(there)))
    return caption, asks


def _yes(truth: bool) -> tuple[str, list[str]]:
    """The answer and the other option of a question after the truth."""
    return ("yes", ["no"]) if truth else ("no", ["yes"])


def _sides(rng: Random, side: str, names: tuple[tuple[str, str, str], ...], questions: tuple[str, ...]) -> Ask:
    """A comparison of two sides, its options in one of several wordings; the first of ``names`` is the plain one."""
    place = ("left", "right", "same").index(side)
    options = list(rng.choice(names))
    answer = options.pop(place)
    return Ask(rng.choice(questions), answer, options, plain=names[0][place])


LEFT_RIGHT = (
    ("left", "right", "same"),
    ("the left one", "the right one", "both the same"),
    ("the first", "the second", "no difference"),
)
TOP_BOTTOM = (("top", "bottom", "same"), ("the top row", "the bottom row", "both the same"), LEFT_RIGHT[2])
OPPOSITE = {"left": "right", "right": "left", "same": "same"}


def _jars(rng: Random, s: Jars) -> Facts:
    a, b = (("many" if len(p) > 4 else "few") for p in (s.left, s.right))
    caption = f"Two jars of {s.colour} dots. Left: {a}. Right: {b}. More: {s.more}."
    other = rng.sample([c for c in TINTS if c != s.colour], 2)
    return caption, [
        _sides(rng, s.more, LEFT_RIGHT, ("Which jar has more dots?", "Which jar is fuller of dots?")),
        _sides(rng, OPPOSITE[s.more], LEFT_RIGHT, ("Which jar has fewer dots?", "Which jar is emptier?")),
        Ask("How many dots are in the left jar?", a, ["few" if a == "many" else "many"]),
        Ask("How many dots are in the right jar?", b, ["few" if b == "many" else "many"]),
        Ask("What colour are the dots?", s.colour, other),
    ]


def _trails(rng: Random, s: Trails) -> Facts:
    a, b = (("long" if t > 10 else "short") for t in (s.left_tail, s.right_tail))
    caption = f"Two boxes of {s.colour} balls. Left tails: {a}. Right tails: {b}. Longer: {s.more}."
    other = rng.sample([c for c in TINTS if c != s.colour], 2)
    return caption, [
        _sides(rng, s.more, LEFT_RIGHT, ("Which box has longer tails?", "Where are the balls quicker?")),
        _sides(
            rng,
            OPPOSITE[s.more],
            LEFT_RIGHT,
            ("Which box has shorter tails?", "Where are the balls slower?"),
        ),
        Ask("How are the tails on the left?", a, ["short" if a == "long" else "long"]),
        Ask("How are the tails on the right?", b, ["short" if b == "long" else "long"]),
        Ask("What colour are the balls?", s.colour, other),
    ]


def _bars(rng: Random, s: Bars) -> Facts:
    same = "same" if s.same else "different"
    caption = f"Two bars. Ends: {', '.join(s.ends)}. Where they meet: {s.ends[1]} and {s.ends[2]}, {same}."
    pair = f"{s.ends[1]} and {s.ends[2]}"
    a, b = s.ends[:2]
    return caption, [
        Ask("Are the ends that meet of one colour?", "yes" if s.same else "no", ["no" if s.same else "yes"]),
        Ask("Compare the two ends that meet.", same, ["different" if s.same else "same"]),
        Ask("Which two ends meet?", pair, [p for p in (f"{x} and {y}" for x in (a, b) for y in (a, b)) if p != pair]),
        Ask("What colour is the first end?", a, [b]),
        Ask("What colour is the last end?", s.ends[3], [s.ends[2]]),
        Ask(
            "Do the bars lie or stand?",
            "they stand" if s.upright else "they lie",
            ["they lie" if s.upright else "they stand"],
        ),
    ]


def _gaps(rng: Random, s: Gaps) -> Facts:
    a, b = (("far apart" if g > 20 else "close together") for g in (s.top, s.bottom))
    caption = f"Two rows of bars. Top: {a}. Bottom: {b}. Wider gap: {s.wider}."
    side = {"top": "left", "bottom": "right", "same": "same"}[s.wider]
    return caption, [
        _sides(rng, side, TOP_BOTTOM, ("Which row has the wider gap?", "In which row are the bars further apart?")),
        _sides(
            rng, OPPOSITE[side], TOP_BOTTOM, ("Which row has the smaller gap?", "In which row are the bars nearer?")
        ),
        Ask("How are the bars in the top row?", a, ["close together" if a == "far apart" else "far apart"]),
        Ask("How are the bars in the bottom row?", b, ["close together" if b == "far apart" else "far apart"]),
    ]


FULL = ("empty", "a little full", "half full", "nearly full", "full")


def _tube(rng: Random, s: Tube) -> Facts:
    level = FULL[s.level]
    caption = f"A tube with {NUMBERS[s.level]} marks of red, {level}."
    rest = [f for f in FULL if f != level]
    mark = f"mark {NUMBERS[s.level]}"
    return caption, [
        Ask("How full is the tube?", level, rest),
        Ask("Up to which mark does the red go?", mark, [f"mark {NUMBERS[n]}" for n in range(5) if n != s.level]),
        Ask("Is the red above the middle?", "yes" if s.level > 2 else "no", ["no" if s.level > 2 else "yes"]),
        Ask("Is the red below the middle?", "yes" if s.level < 2 else "no", ["no" if s.level < 2 else "yes"]),
    ]


def _columns(rng: Random, s: Columns) -> Facts:
    across = [c for c, _ in s.columns]
    down = [c for c, _ in sorted(s.columns, key=lambda column: -column[1])]
    caption = f"Columns from tall to short: {', '.join(down)}. From left to right: {', '.join(across)}."
    wear = rng.choice(("the {}", "{}", "the {} column"))
    asks = []
    for best, words in ((down[0], ("tallest", "highest")), (down[-1], ("shortest", "lowest")),
                        (across[0], ("first",)), (across[-1], ("last",))):  # fmt: skip
        others = [wear.format(c) for c in across if c != best]
        asks.append(Ask(f"Which column is the {rng.choice(words)}?", wear.format(best), others, plain=best))
    return caption, asks


CORNERS = ("at the top", "bottom left", "bottom right")


def _web(rng: Random, s: Web) -> Facts:
    a, b, c = names = [n for n, _ in s.chain]
    caption = f"Arrows: {a} to {b}, {b} to {c}. " + " ".join(f"The {n} is {CORNERS[p]}." for n, p in s.chain)
    x = rng.randrange(3)
    here = CORNERS[s.chain[x][1]]
    return caption, [
        Ask(f"Where does the arrow from the {a} lead?", f"to the {b}", [f"to the {c}"], plain=b),
        Ask(f"Where does the arrow from the {b} lead?", f"to the {c}", [f"to the {a}"], plain=c),
        Ask(f"Which arrow ends at the {b}?", f"the arrow from the {a}", [f"the arrow from the {c}"], plain=a),
        Ask(f"Which arrow ends at the {c}?", f"the arrow from the {b}", [f"the arrow from the {a}"], plain=b),
        Ask(f"Where is the {names[x]}?", here, [p for p in CORNERS if p != here]),
        Ask(f"What stands {here}?", f"the {names[x]}", [f"the {n}" for n in names if n != names[x]], plain=names[x]),
    ]  # fmt: skip


def labels(scene: object) -> dict[str, str]:
    """What is in a picture as fields and values, for the tower's own first lessons."""
    match scene:
        case Spots():
            fields = {side: scene.extreme(side) for side in EXTREMES}
            at = {c: (x, y) for c, x, y, _ in scene.spots}
            for colour in SPOT_COLOURS:
                for n, axis in enumerate(("column", "row")):
                    near = str(min(range(4), key=lambda b: abs(BANDS[b] - at[colour][n]))) if colour in at else "none"
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
            places = dict(pairwise([p for _, p in scene.chain]))
            fields |= {f"from corner {p}": str(places.get(p)) for p in range(3)}
    kind = type(scene).__name__
    return {"kind": kind, **{f"{kind} {field}": value for field, value in fields.items()}}


TELLERS: dict[type, Callable[[Random, Any], Facts]] = {
    Spots: _spots, Jars: _jars, Trails: _trails, Bars: _bars, Gaps: _gaps, Tube: _tube, Columns: _columns, Web: _web,
}  # fmt: skip


OFTEN = (4, 3, 4, 1, 1, 1, 3, 5)
"""How often each of SCENES comes: what has more to it comes more often."""


def picture(rng: Random, how: str | None = None) -> Sample:
    """A picture with its ``caption``, or with up to three turns: ``open`` questions, ``choice`` or both, ``mixed``."""
    scene = rng.choices(SCENES, OFTEN)[0].random(rng)
    caption, asks = TELLERS[type(scene)](rng, scene)
    told, said = (TOLD, SAID) if how is None else (0.0, 0.0)
    how = how or rng.choices(("caption", "open", "choice", "mixed"), (1, 3, 8, 1))[0]
    image = scene.draw()
    if how == "caption":
        ask = Ask("What does the picture show?", "")
        pieces = turn(rng, ask, picture=True)[:1]
        return Sample("caption", [*pieces, (f" {caption}", CAPTION), ("</s>", FORM)], image, scene)
    rng.shuffle(asks)
    if how == "open" and rng.random() < 0.6:
        return Sample("picture open", recite(asks, head="USER: <image>\n"), image, scene)
    pieces = []
    for n, ask in enumerate(asks[:4]):
        choice = how == "choice" or (how == "mixed" and n > 1)
        pieces += turn(rng, ask, picture=n == 0, choice=choice, told=told, said=said)
    return Sample("picture choice" if how == "mixed" else f"picture {how}", pieces, image, scene)
