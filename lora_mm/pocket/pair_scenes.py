"""Scenes of two things to compare: jars, boxes, magnets. Knows no questions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import Image

from lora_mm.pocket.drawing import DOT_COLOURS, INK, PAPER_COLOURS, PICTURE_SIZE, new_picture, random_paper
from lora_mm.pocket.tables import COLOURS

POLE_PAIRS = (("red", "blue"), ("green", "orange"), ("purple", "yellow"))
"""Colors of a magnet's two poles."""

Pixel = tuple[int, int]
"""x and y of a pixel in a picture."""


def random_side(rng: Random) -> str:
    """Draw ``left``, ``right`` or ``same``."""
    return rng.choice(("left", "right", "same"))


def compare_sides(left: int, right: int) -> str:
    """Find the side with the larger number.

    Args:
        left: number on the left side.
        right: number on the right side.

    Returns:
        ``left``, ``right`` or ``same``.
    """
    return "left" if left > right else "right" if right > left else "same"


def scatter_points(rng: Random, count: int, box: tuple[int, int, int, int], gap: int) -> tuple[Pixel, ...]:
    """Draw random points that keep a distance; start again if no room is left for the last points.

    Args:
        rng: source of randomness.
        count: number of points.
        box: left, top, right and bottom of the area, in pixels.
        gap: minimum distance of two points, in pixels.
    """
    while True:
        points: list[Pixel] = []
        for _ in range(12 * count):
            p = (rng.randint(box[0], box[2]), rng.randint(box[1], box[3]))
            if all(math.dist(p, q) >= gap for q in points):
                points.append(p)
            if len(points) == count:
                return tuple(points)


@dataclass(frozen=True)
class Jars:
    """Two jars with dots. One has at least three times as many as the other, or both have the same number."""

    left: tuple[Pixel, ...]
    right: tuple[Pixel, ...]
    colour: str
    paper: int

    @classmethod
    def random(cls, rng: Random, more: str | None = None) -> Jars:
        """Draw random jars.

        Args:
            rng: source of randomness.
            more: the fuller side: ``left``, ``right`` or ``same``; None for any.
        """
        more = more or random_side(rng)
        few, many = rng.randint(1, 2), rng.randint(7, 9)
        a, b = {"left": (many, few), "right": (few, many), "same": (rng.choice((few, many)),) * 2}[more]
        left = scatter_points(rng, a, (16, 52, 56, 122), 12)
        right = scatter_points(rng, b, (88, 52, 128, 122), 12)
        return cls(left, right, rng.choice(DOT_COLOURS), random_paper(rng))

    @property
    def more(self) -> str:
        """The side with more dots: left, right or same."""
        return compare_sides(len(self.left), len(self.right))

    def draw(self) -> Image.Image:
        """Draw the picture of the two jars."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        for x, points in ((8, self.left), (80, self.right)):
            pen.rectangle((x + 1, 42, x + 55, 131), fill=(222, 238, 248))
            pen.line((x, 24, x, 132, x + 56, 132, x + 56, 24), fill=INK, width=3)
            for px, py in points:
                pen.ellipse((px - 5, py - 5, px + 5, py + 5), fill=COLOURS[self.colour])
        return image


@dataclass(frozen=True)
class Trails:
    """Two boxes of moving balls. A longer tail means a faster ball."""

    left: tuple[tuple[int, int, int], ...]  # x, y, degrees
    right: tuple[tuple[int, int, int], ...]
    left_tail: int
    right_tail: int
    colour: str
    paper: int

    @classmethod
    def random(cls, rng: Random, more: str | None = None) -> Trails:
        """Draw random boxes.

        Args:
            rng: source of randomness.
            more: the side with the longer tails: ``left``, ``right`` or ``same``; None for any.
        """
        more = more or random_side(rng)
        short, long = rng.randint(3, 5), rng.randint(19, 22)
        a, b = {"left": (long, short), "right": (short, long), "same": (rng.choice((short, long)),) * 2}[more]
        balls = lambda x: tuple(  # noqa: E731
            (*p, rng.randrange(0, 360, 15)) for p in scatter_points(rng, 4, (x + 20, 40, x + 44, 112), 18)
        )
        return cls(balls(6), balls(74), a, b, rng.choice(DOT_COLOURS), random_paper(rng))

    @property
    def more(self) -> str:
        """The side with the longer tails: left, right or same."""
        return compare_sides(self.left_tail, self.right_tail)

    def draw(self) -> Image.Image:
        """Draw the picture of the two boxes."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        for x, balls, tail in ((6, self.left, self.left_tail), (74, self.right, self.right_tail)):
            pen.rectangle((x, 18, x + 64, 134), fill=(255, 255, 255), outline=INK, width=3)
            for px, py, angle in balls:
                dx, dy = math.cos(math.radians(angle)) * tail, math.sin(math.radians(angle)) * tail
                pen.line((px, py, px - dx, py - dy), fill=(90, 90, 90), width=5)
                pen.ellipse((px - 5, py - 5, px + 5, py + 5), fill=COLOURS[self.colour])
        return image


@dataclass(frozen=True)
class Bars:
    """Two bar magnets, end to end. The poles that face each other have the same colour or different ones."""

    ends: tuple[str, str, str, str]
    upright: bool
    x: int
    y: int
    gap: int
    paper: int

    @classmethod
    def random(cls, rng: Random, same: bool | None = None) -> Bars:
        """Draw random magnets.

        Args:
            rng: source of randomness.
            same: whether the facing poles have the same colour; None for any.
        """
        same = rng.random() < 0.5 if same is None else same
        a, b = rng.sample(rng.choice(POLE_PAIRS), 2)
        return cls(
            (a, b, b, a) if same else (a, b, a, b),
            rng.random() < 0.5,
            rng.randint(-5, 5),
            rng.randint(-32, 32),
            rng.randint(6, 12),
            random_paper(rng),
        )

    @property
    def same(self) -> bool:
        """Whether the facing poles have the same colour."""
        return self.ends[1] == self.ends[2]

    def draw(self) -> Image.Image:
        """Draw the picture of the two bars, horizontal or upright."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        long, thick, half = 56, 26, PICTURE_SIZE // 2
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
    """Two rows of two magnets each, close together or far apart."""

    top: int
    bottom: int
    colours: tuple[str, str]
    x: int
    paper: int

    @classmethod
    def random(cls, rng: Random, wider: str | None = None) -> Gaps:
        """Draw random rows.

        Args:
            rng: source of randomness.
            wider: the row with the wider gap: ``top``, ``bottom`` or ``same``; None for any.
        """
        wider = wider or rng.choice(("top", "bottom", "same"))
        near, far = rng.randint(3, 7), rng.randint(36, 44)
        top, bottom = {"top": (far, near), "bottom": (near, far), "same": (rng.choice((near, far)),) * 2}[wider]
        a, b = rng.sample(rng.choice(POLE_PAIRS), 2)
        return cls(top, bottom, (a, b), rng.randint(-6, 6), random_paper(rng))

    @property
    def wider(self) -> str:
        """The row with the wider gap: top, bottom or same."""
        return {"left": "top", "right": "bottom", "same": "same"}[compare_sides(self.top, self.bottom)]

    def draw(self) -> Image.Image:
        """Draw the picture of the two rows, one above the other."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        for y, gap in ((28, self.top), (92, self.bottom)):
            for start in (PICTURE_SIZE // 2 - gap // 2 - 44, PICTURE_SIZE // 2 + gap // 2):
                for n, colour in enumerate(self.colours):
                    a = start + self.x + 22 * n
                    pen.rectangle((a, y, a + 21, y + 24), fill=COLOURS[colour], outline=INK, width=2)
        return image
