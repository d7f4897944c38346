"""Draws for the pocket world: colors, an empty picture, arrows and creatures. Knows no scenes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random

from PIL import Image, ImageDraw

PICTURE_SIZE = 144
"""Side of every picture, in pixels."""

INK = (30, 30, 30)
"""Color of outlines and letters."""

SEA_COLOURS = ((196, 222, 240), (206, 232, 236), (186, 212, 236))
PAPER_COLOURS = ((252, 252, 250), (246, 246, 238), (240, 246, 250), (250, 244, 240))
SPOT_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "black", "white")
DOT_COLOURS = ("red", "blue", "green", "purple", "orange", "black")


def random_paper(rng: Random) -> int:
    """Draw the index of a background in ``PAPER_COLOURS``."""
    return rng.randrange(len(PAPER_COLOURS))


def new_picture(background: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Make an empty picture of one color, and the pen that draws on it."""
    image = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), background)
    return image, ImageDraw.Draw(image)


def draw_arrow(pen: ImageDraw.ImageDraw, a: tuple[int, int], b: tuple[int, int]) -> None:
    """Draw a thick arrow with a large head, clear of the icons at both ends.

    Args:
        pen: the picture's pen.
        a: pixel position of the icon where the arrow starts.
        b: pixel position of the icon where it ends.
    """
    length = math.dist(a, b)
    ux, uy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    start, stop = (a[0] + ux * 26, a[1] + uy * 26), (b[0] - ux * 24, b[1] - uy * 24)
    neck = (stop[0] - ux * 16, stop[1] - uy * 16)
    pen.line((*start, *neck), fill=(90, 90, 90), width=5)
    pen.polygon([stop, (neck[0] - uy * 11, neck[1] + ux * 11), (neck[0] + uy * 11, neck[1] - ux * 11)], fill=INK)


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


ICONS: Mapping[str, Callable[[ImageDraw.ImageDraw, int, int], None]] = {
    "grass": _grass, "beetle": _beetle, "mouse": _mouse, "snake": _snake, "hawk": _hawk,
    "fish": _fish, "frog": _frog, "rabbit": _rabbit, "fox": _fox, "berry": _berry,
}  # fmt: skip
"""Creature to the function that draws it around a pixel position."""
