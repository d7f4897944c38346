"""The drawn scenes of the pocket world: what is in a picture, by seed, and the picture itself. Knows no question.

A scene is a frozen record: equal records draw equal pictures. Differences that a question may ask for are drawn wide
enough to survive the tower's smaller input, of half the side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw

from lora_mm.pocket.tables import COLOURS, CREATURES

SIDE = 144
INK = (30, 30, 30)
SEA = ((196, 222, 240), (206, 232, 236), (186, 212, 236))
LAND = ((236, 232, 214), (228, 236, 214), (240, 226, 206))
PAPER = ((252, 252, 250), (246, 246, 238), (240, 246, 250), (250, 244, 240))
SPOT_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "black", "white")
DOT_COLOURS = ("red", "blue", "green", "purple", "orange", "black")
POLE_PAIRS = (("red", "blue"), ("green", "orange"), ("purple", "yellow"))
BANDS = (24, 56, 88, 120)


def _paper(rng: Random) -> int:
    return rng.randrange(len(PAPER))


@dataclass(frozen=True)
class Spots:
    """Four coloured islands; no two share a row or a column of a four by four grid."""

    spots: tuple[tuple[str, int, int, int], ...]  # colour, x, y, radius
    sea: int

    @classmethod
    def random(cls, rng: Random, count: int = 4) -> Spots:
        """``count`` islands of different colours, in different rows and columns."""
        rows, columns = rng.sample(BANDS, count), rng.sample(BANDS, count)
        colours = rng.sample(SPOT_COLOURS, count)
        jitter = lambda: rng.randint(-4, 4)  # noqa: E731
        return cls(
            tuple(
                (c, x + jitter(), y + jitter(), rng.randint(10, 13))
                for c, x, y in zip(colours, columns, rows, strict=True)
            ),
            rng.randrange(len(SEA)),
        )

    def draw(self) -> Image.Image:
        """The map."""
        image = Image.new("RGB", (SIDE, SIDE), SEA[self.sea])
        pen = ImageDraw.Draw(image)
        for colour, x, y, r in self.spots:
            pen.ellipse((x - r, y - r + 1, x + r, y + r - 1), fill=COLOURS[colour], outline=INK, width=2)
        return image

    def extreme(self, side: str) -> str:
        """The colour of the island nearest ``side``: top, bottom, left or right."""
        axis, sign = {"top": (2, 1), "bottom": (2, -1), "left": (1, 1), "right": (1, -1)}[side]
        return min(self.spots, key=lambda s: sign * s[axis])[0]


def _scatter(rng: Random, count: int, box: tuple[int, int, int, int], gap: int) -> tuple[tuple[int, int], ...]:
    """``count`` points inside ``box``, at least ``gap`` apart; starts afresh when the last of them find no room."""
    while True:
        points: list[tuple[int, int]] = []
        for _ in range(12 * count):
            p = (rng.randint(box[0], box[2]), rng.randint(box[1], box[3]))
            if all(math.dist(p, q) >= gap for q in points):
                points.append(p)
            if len(points) == count:
                return tuple(points)


def _order(rng: Random) -> str:
    return rng.choice(("left", "right", "same"))


@dataclass(frozen=True)
class Jars:
    """Two jars of one size with dots in them; one holds at least three times as many as the other, or both as many."""

    left: tuple[tuple[int, int], ...]
    right: tuple[tuple[int, int], ...]
    colour: str
    paper: int

    @classmethod
    def random(cls, rng: Random, more: str | None = None) -> Jars:
        """``more``: left, right or same."""
        more = more or _order(rng)
        few, many = rng.randint(1, 2), rng.randint(7, 9)
        a, b = {"left": (many, few), "right": (few, many), "same": (rng.choice((few, many)),) * 2}[more]
        left = _scatter(rng, a, (16, 52, 56, 122), 12)
        right = _scatter(rng, b, (88, 52, 128, 122), 12)
        return cls(left, right, rng.choice(DOT_COLOURS), _paper(rng))

    @property
    def more(self) -> str:
        """The side with more dots: left, right or same."""
        return _compare(len(self.left), len(self.right))

    def draw(self) -> Image.Image:
        """Two jars side by side."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        for x, points in ((8, self.left), (80, self.right)):
            pen.rectangle((x + 1, 42, x + 55, 131), fill=(222, 238, 248))
            pen.line((x, 24, x, 132, x + 56, 132, x + 56, 24), fill=INK, width=3)
            for px, py in points:
                pen.ellipse((px - 5, py - 5, px + 5, py + 5), fill=COLOURS[self.colour])
        return image


@dataclass(frozen=True)
class Trails:
    """Two closed boxes of moving balls; a ball's tail is as long as it is fast."""

    left: tuple[tuple[int, int, int], ...]  # x, y, degrees
    right: tuple[tuple[int, int, int], ...]
    left_tail: int
    right_tail: int
    colour: str
    paper: int

    @classmethod
    def random(cls, rng: Random, more: str | None = None) -> Trails:
        """``more``: the side with the longer tails: left, right or same."""
        more = more or _order(rng)
        short, long = rng.randint(3, 5), rng.randint(19, 22)
        a, b = {"left": (long, short), "right": (short, long), "same": (rng.choice((short, long)),) * 2}[more]
        balls = lambda x: tuple(  # noqa: E731
            (*p, rng.randrange(0, 360, 15)) for p in _scatter(rng, 4, (x + 20, 40, x + 44, 112), 18)
        )
        return cls(balls(6), balls(74), a, b, rng.choice(DOT_COLOURS), _paper(rng))

    @property
    def more(self) -> str:
        """The side with the longer tails: left, right or same."""
        return _compare(self.left_tail, self.right_tail)

    def draw(self) -> Image.Image:
        """Two boxes side by side."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        for x, balls, tail in ((6, self.left, self.left_tail), (74, self.right, self.right_tail)):
            pen.rectangle((x, 18, x + 64, 134), fill=(255, 255, 255), outline=INK, width=3)
            for px, py, angle in balls:
                dx, dy = math.cos(math.radians(angle)) * tail, math.sin(math.radians(angle)) * tail
                pen.line((px, py, px - dx, py - dy), fill=(90, 90, 90), width=5)
                pen.ellipse((px - 5, py - 5, px + 5, py + 5), fill=COLOURS[self.colour])
        return image


@dataclass(frozen=True)
class Bars:
    """Two bars end to end, each with two coloured ends; the ends that meet have one colour or two."""

    ends: tuple[str, str, str, str]
    upright: bool
    x: int
    y: int
    gap: int
    paper: int

    @classmethod
    def random(cls, rng: Random, same: bool | None = None) -> Bars:
        """``same``: whether the two ends that meet have the same colour."""
        same = rng.random() < 0.5 if same is None else same
        a, b = rng.sample(rng.choice(POLE_PAIRS), 2)
        return cls(
            (a, b, b, a) if same else (a, b, a, b),
            rng.random() < 0.5,
            rng.randint(-5, 5),
            rng.randint(-32, 32),
            rng.randint(6, 12),
            _paper(rng),
        )

    @property
    def same(self) -> bool:
        """Whether the two ends that meet have the same colour."""
        return self.ends[1] == self.ends[2]

    def draw(self) -> Image.Image:
        """The two bars, lying or upright."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        long, thick, half = 56, 26, SIDE // 2
        for start, colours in ((half - self.gap // 2 - long, self.ends[:2]), (half + self.gap // 2, self.ends[2:])):
            for n, colour in enumerate(colours):
                a, b, c = (
                    start + self.x + n * long // 2,
                    start + self.x + (n + 1) * long // 2 - 1,
                    half + self.y - thick // 2,
                )
                box = (c, a, c + thick, b) if self.upright else (a, c, b, c + thick)
                pen.rectangle(box, fill=COLOURS[colour], outline=INK, width=2)
        return image


@dataclass(frozen=True)
class Gaps:
    """Two rows of two bars each; the bars of a row lie close together or far apart."""

    top: int
    bottom: int
    colours: tuple[str, str]
    x: int
    paper: int

    @classmethod
    def random(cls, rng: Random, wider: str | None = None) -> Gaps:
        """``wider``: the row with the wider gap: top, bottom or same."""
        wider = wider or rng.choice(("top", "bottom", "same"))
        near, far = rng.randint(3, 7), rng.randint(36, 44)
        top, bottom = {"top": (far, near), "bottom": (near, far), "same": (rng.choice((near, far)),) * 2}[wider]
        a, b = rng.sample(rng.choice(POLE_PAIRS), 2)
        return cls(top, bottom, (a, b), rng.randint(-6, 6), _paper(rng))

    @property
    def wider(self) -> str:
        """The row with the wider gap: top, bottom or same."""
        return {"left": "top", "right": "bottom", "same": "same"}[_compare(self.top, self.bottom)]

    def draw(self) -> Image.Image:
        """The two rows, one above the other."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        for y, gap in ((28, self.top), (92, self.bottom)):
            for start in (SIDE // 2 - gap // 2 - 44, SIDE // 2 + gap // 2):
                for n, colour in enumerate(self.colours):
                    a = start + self.x + 22 * n
                    pen.rectangle((a, y, a + 21, y + 24), fill=COLOURS[colour], outline=INK, width=2)
        return image


@dataclass(frozen=True)
class Tube:
    """An upright glass tube with a red column; ``level`` counts its marks from 0 (lowest) to 4."""

    level: int
    x: int
    y: int
    wide: int
    paper: int

    @classmethod
    def random(cls, rng: Random, level: int | None = None) -> Tube:
        """A tube filled to ``level``."""
        level = rng.randrange(5) if level is None else level
        return cls(level, rng.randint(-34, 34), rng.randint(-3, 3), rng.randint(8, 11), _paper(rng))

    def draw(self) -> Image.Image:
        """The tube with its five marks."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        x, foot = SIDE // 2 + self.x, 122 + self.y
        pen.rectangle((x - self.wide, 12 + self.y, x + self.wide, foot), fill=(255, 255, 255), outline=INK, width=2)
        top = foot - 8 - 24 * self.level
        pen.rectangle((x - self.wide + 3, top, x + self.wide - 3, foot - 2), fill=COLOURS["red"])
        pen.ellipse((x - 15, foot - 8, x + 15, foot + 18), fill=COLOURS["red"], outline=INK, width=2)
        for mark in range(5):
            y = foot - 8 - 24 * mark
            pen.line((x + self.wide + 2, y, x + self.wide + 12, y), fill=INK, width=2)
        return image


@dataclass(frozen=True)
class Columns:
    """Four coloured columns of four different heights, side by side."""

    columns: tuple[tuple[str, int], ...]
    paper: int

    @classmethod
    def random(cls, rng: Random) -> Columns:
        """Four colours, four heights."""
        heights = [h + rng.randint(-4, 4) for h in rng.sample((18, 48, 78, 108), 4)]
        return cls(tuple(zip(rng.sample(DOT_COLOURS, 4), heights, strict=True)), _paper(rng))

    def extreme(self, which: str) -> str:
        """The colour of the ``tallest`` or the ``shortest`` column."""
        return (max if which == "tallest" else min)(self.columns, key=lambda c: c[1])[0]

    def draw(self) -> Image.Image:
        """The four columns on one ground line."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        for n, (colour, height) in enumerate(self.columns):
            x = 14 + n * 32
            pen.rectangle((x, 132 - height, x + 20, 132), fill=COLOURS[colour], outline=INK, width=1)
        pen.line((6, 133, 138, 133), fill=INK, width=3)
        return image


PLACES = ((72, 26), (26, 114), (118, 114))  # top, bottom left, bottom right


@dataclass(frozen=True)
class Web:
    """Three creatures at the corners of a triangle; arrows lead from the first to the second and on to the third."""

    chain: tuple[tuple[str, int], ...]  # creature, index into PLACES
    shift: tuple[int, int]
    paper: int

    @classmethod
    def random(cls, rng: Random) -> Web:
        """Three creatures, in any order, at any corners."""
        chain = tuple(zip(rng.sample(CREATURES, 3), rng.sample(range(3), 3), strict=True))
        return cls(chain, (rng.randint(-3, 3), rng.randint(-3, 3)), _paper(rng))

    def draw(self) -> Image.Image:
        """Creatures and arrows."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        at = [(PLACES[p][0] + self.shift[0], PLACES[p][1] + self.shift[1]) for _, p in self.chain]
        for (creature, _), (x, y) in zip(self.chain, at, strict=True):
            ICONS[creature](pen, x, y)
        for a, b in pairwise(at):
            _arrow(pen, a, b)
        return image


def _arrow(pen: ImageDraw.ImageDraw, a: tuple[int, int], b: tuple[int, int]) -> None:
    """A thick arrow with a large head between two corners, clear of what stands there."""
    length = math.dist(a, b)
    ux, uy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    start, stop = (a[0] + ux * 26, a[1] + uy * 26), (b[0] - ux * 24, b[1] - uy * 24)
    neck = (stop[0] - ux * 16, stop[1] - uy * 16)
    pen.line((*start, *neck), fill=(90, 90, 90), width=5)
    pen.polygon([stop, (neck[0] - uy * 11, neck[1] + ux * 11), (neck[0] + uy * 11, neck[1] - ux * 11)], fill=INK)


def _compare(left: int, right: int) -> str:
    return "left" if left > right else "right" if right > left else "same"


@dataclass(frozen=True)
class Stripes:
    """Four cloths, one a quarter, with stripes one pixel wide; one cloth's run up and down, the others' across.

    Shrunk to half the side, every cloth is an even grey: which way its stripes run can be seen in its quarter only.
    """

    upright: int  # quarter whose stripes run up and down, in reading order
    corners: tuple[tuple[int, int], ...]  # of each cloth, even, so that shrinking mixes whole pairs of stripes
    side: int
    colour: str
    paper: int

    @classmethod
    def random(cls, rng: Random) -> Stripes:
        """Cloths of one colour and size, each somewhere in its quarter."""
        side, half = rng.choice((44, 48, 52, 56)), SIDE // 2
        places = tuple(
            (
                half * (n % 2) + 2 * rng.randint(1, (half - side) // 2 - 1),
                half * (n // 2) + 2 * rng.randint(1, (half - side) // 2 - 1),
            )
            for n in range(4)
        )
        return cls(rng.randrange(4), places, side, rng.choice(DOT_COLOURS), _paper(rng))

    def draw(self) -> Image.Image:
        """The four cloths."""
        image = Image.new("RGB", (SIDE, SIDE), PAPER[self.paper])
        pen = ImageDraw.Draw(image)
        ink = COLOURS[self.colour]
        for n, (x, y) in enumerate(self.corners):
            last = self.side - 1
            pen.rectangle((x, y, x + last, y + last), fill=(255, 255, 255))
            for step in range(0, self.side, 2):
                if n == self.upright:
                    pen.line((x + step, y, x + step, y + last), fill=ink)
                else:
                    pen.line((x, y + step, x + last, y + step), fill=ink)
        return image


def _grass(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for n in range(-2, 3):
        pen.line((x + 5 * n, y + 16, x + 9 * n, y - 16), fill=(40, 160, 50), width=4)


def _beetle(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for n in (-8, 0, 8):
        pen.line((x + n, y - 16, x + n, y + 16), fill=INK, width=2)
    pen.ellipse((x - 18, y - 11, x + 18, y + 11), fill=(120, 66, 24), outline=INK, width=2)


def _mouse(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.line((x + 8, y + 10, x + 20, y + 16), fill=(240, 150, 160), width=4)
    pen.ellipse((x - 14, y - 8, x + 14, y + 15), fill=(165, 165, 172))
    pen.ellipse((x - 19, y - 17, x - 3, y - 1), fill=(240, 150, 160), outline=(120, 120, 120), width=2)
    pen.ellipse((x + 3, y - 17, x + 19, y - 1), fill=(240, 150, 160), outline=(120, 120, 120), width=2)


def _snake(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.line(
        (x - 20, y + 12, x - 8, y - 10, x + 4, y + 12, x + 18, y - 12), fill=(180, 190, 30), width=7, joint="curve"
    )


def _hawk(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.polygon([(x - 21, y - 14), (x, y - 2), (x + 21, y - 14), (x, y + 16)], fill=(60, 44, 40))


def _fish(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.polygon([(x + 8, y), (x + 20, y - 12), (x + 20, y + 12)], fill=(244, 132, 24))
    pen.ellipse((x - 20, y - 11, x + 12, y + 11), fill=(244, 132, 24))


def _frog(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.ellipse((x - 17, y - 10, x + 17, y + 16), fill=(20, 120, 110))
    for side in (-9, 9):
        pen.ellipse((x + side - 7, y - 17, x + side + 7, y - 3), fill=(250, 250, 250), outline=(20, 120, 110), width=3)


def _rabbit(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for side in (-7, 7):
        pen.ellipse((x + side - 5, y - 20, x + side + 5, y + 4), fill=(250, 250, 250), outline=INK, width=2)
    pen.ellipse((x - 13, y - 4, x + 13, y + 17), fill=(250, 250, 250), outline=INK, width=2)


def _fox(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.polygon(
        [(x - 18, y - 18), (x, y - 9), (x + 18, y - 18), (x + 12, y + 6), (x, y + 18), (x - 12, y + 6)],
        fill=(205, 50, 20),
    )


def _berry(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for dx, dy in ((-8, -6), (8, -6), (0, 8)):
        pen.ellipse(
            (x + dx - 9, y + dy - 9, x + dx + 9, y + dy + 9), fill=(120, 30, 160), outline=(70, 10, 100), width=1
        )


ICONS = {
    "grass": _grass, "beetle": _beetle, "mouse": _mouse, "snake": _snake, "hawk": _hawk,
    "fish": _fish, "frog": _frog, "rabbit": _rabbit, "fox": _fox, "berry": _berry,
}  # fmt: skip
SCENES = (Spots, Jars, Trails, Bars, Gaps, Tube, Columns, Web)
