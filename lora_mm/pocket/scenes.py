"""The scenes of the pocket world: what a picture shows, drawn at random, and the picture. Knows no questions.

A scene is a frozen record: equal records draw equal pictures. Differences that a question can ask about are wide enough
to survive the vision tower's input, which has half the side of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from PIL import Image

from lora_mm.pocket.drawing import (
    DOT_COLOURS,
    ICONS,
    INK,
    PAPER_COLOURS,
    PICTURE_SIZE,
    SEA_COLOURS,
    SPOT_COLOURS,
    draw_arrow,
    new_picture,
    random_paper,
)
from lora_mm.pocket.pair_scenes import Bars, Gaps, Jars, Pixel, Trails
from lora_mm.pocket.tables import COLOURS, CREATURES

GRID = (24, 56, 88, 120)
"""Pixel positions of the rows, and of the columns, of the grid that islands lie on."""


@dataclass(frozen=True)
class Spots:
    """A map: four coloured islands on a 4 × 4 grid, no two in the same row or column."""

    spots: tuple[tuple[str, int, int, int], ...]  # colour, x, y, radius
    sea: int

    @classmethod
    def random(cls, rng: Random, count: int = 4) -> Spots:
        """Draw a random map.

        Args:
            rng: source of randomness.
            count: number of islands, of different colours.
        """
        rows, columns = rng.sample(GRID, count), rng.sample(GRID, count)
        colours = rng.sample(SPOT_COLOURS, count)
        jitter = lambda: rng.randint(-4, 4)  # noqa: E731
        return cls(
            tuple(
                (c, x + jitter(), y + jitter(), rng.randint(10, 13))
                for c, x, y in zip(colours, columns, rows, strict=True)
            ),
            rng.randrange(len(SEA_COLOURS)),
        )

    def draw(self) -> Image.Image:
        """Draw the picture of the map."""
        image, pen = new_picture(SEA_COLOURS[self.sea])
        for colour, x, y, r in self.spots:
            pen.ellipse((x - r, y - r + 1, x + r, y + r - 1), fill=COLOURS[colour], outline=INK, width=2)
        return image

    def extreme(self, side: str) -> str:
        """Find the colour of the island closest to ``side``: top, bottom, left or right."""
        axis, sign = {"top": (2, 1), "bottom": (2, -1), "left": (1, 1), "right": (1, -1)}[side]
        return min(self.spots, key=lambda s: sign * s[axis])[0]


@dataclass(frozen=True)
class Tube:
    """A thermometer. ``level`` is the mark that the red liquid reaches, from 0 (lowest) to 4."""

    level: int
    x: int
    y: int
    wide: int
    paper: int

    @classmethod
    def random(cls, rng: Random, level: int | None = None) -> Tube:
        """Draw a random thermometer.

        Args:
            rng: source of randomness.
            level: the mark that the red liquid reaches; None for any.
        """
        level = rng.randrange(5) if level is None else level
        return cls(level, rng.randint(-34, 34), rng.randint(-3, 3), rng.randint(8, 11), random_paper(rng))

    def draw(self) -> Image.Image:
        """Draw the picture of the tube with its five marks."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        x, foot = PICTURE_SIZE // 2 + self.x, 122 + self.y
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
    """A bar chart: four columns of different colours and heights."""

    columns: tuple[tuple[str, int], ...]
    paper: int

    @classmethod
    def random(cls, rng: Random) -> Columns:
        """Draw a random bar chart."""
        heights = [h + rng.randint(-4, 4) for h in rng.sample((18, 48, 78, 108), 4)]
        return cls(tuple(zip(rng.sample(DOT_COLOURS, 4), heights, strict=True)), random_paper(rng))

    def extreme(self, which: str) -> str:
        """Find the colour of the ``tallest`` or the ``shortest`` column."""
        return (max if which == "tallest" else min)(self.columns, key=lambda c: c[1])[0]

    def draw(self) -> Image.Image:
        """Draw the picture of the four columns."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        for n, (colour, height) in enumerate(self.columns):
            x = 14 + n * 32
            pen.rectangle((x, 132 - height, x + 20, 132), fill=COLOURS[colour], outline=INK, width=1)
        pen.line((6, 133, 138, 133), fill=INK, width=3)
        return image


WEB_CORNERS = ((72, 26), (26, 114), (118, 114))
"""Pixel positions of creatures: top, bottom left, bottom right."""


@dataclass(frozen=True)
class Web:
    """A food web: three creatures, with arrows from the first to the second and from the second to the third."""

    chain: tuple[tuple[str, int], ...]  # creature, index in WEB_CORNERS
    shift: tuple[int, int]
    paper: int

    @classmethod
    def random(cls, rng: Random) -> Web:
        """Draw a random food web."""
        chain = tuple(zip(rng.sample(CREATURES, 3), rng.sample(range(3), 3), strict=True))
        return cls(chain, (rng.randint(-3, 3), rng.randint(-3, 3)), random_paper(rng))

    def draw(self) -> Image.Image:
        """Draw the picture of the creatures and arrows."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
        positions = [(WEB_CORNERS[p][0] + self.shift[0], WEB_CORNERS[p][1] + self.shift[1]) for _, p in self.chain]
        for (creature, _), (x, y) in zip(self.chain, positions, strict=True):
            ICONS[creature](pen, x, y)
        for a, b in pairwise(positions):
            draw_arrow(pen, a, b)
        return image


@dataclass(frozen=True)
class Stripes:
    """Four cloths with stripes one pixel wide, one in each quarter. The stripes of one cloth are vertical.

    At half the side, every cloth is an even gray: the direction of the stripes is visible in full-size crops only.
    """

    upright: int  # index of the cloth with vertical stripes, in reading order
    corners: tuple[Pixel, ...]  # of each cloth; even, so that shrinking mixes whole pairs of stripes
    side: int
    colour: str
    paper: int

    @classmethod
    def random(cls, rng: Random) -> Stripes:
        """Draw random cloths of one colour and size, each at a random position in its quarter."""
        side, half = rng.choice((44, 48, 52, 56)), PICTURE_SIZE // 2
        corners = tuple(
            (
                half * (n % 2) + 2 * rng.randint(1, (half - side) // 2 - 1),
                half * (n // 2) + 2 * rng.randint(1, (half - side) // 2 - 1),
            )
            for n in range(4)
        )
        return cls(rng.randrange(4), corners, side, rng.choice(DOT_COLOURS), random_paper(rng))

    def draw(self) -> Image.Image:
        """Draw the picture of the four cloths."""
        image, pen = new_picture(PAPER_COLOURS[self.paper])
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


SCENES = (Spots, Jars, Trails, Bars, Gaps, Tube, Columns, Web)
"""The scenes that the pocket base is pretrained on. ``Stripes`` is not among them."""

Scene = Bars | Columns | Gaps | Jars | Spots | Stripes | Trails | Tube | Web
