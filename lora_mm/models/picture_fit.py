"""Names the ways to fit a picture into a square. Imports nothing, because recipes are read without Pillow and torch."""

from typing import Literal

Fit = Literal["processor", "pad", "squash", "crop"]
"""How a picture becomes a square; ``processor`` leaves it to the base's processor."""

_DESCRIPTIONS: dict[Fit, str] = {
    "pad": "padded to a square in the processor's mean colour",
    "squash": "resized to a square without regard to the aspect",
    "crop": "cropped to the central square",
}


def describe_fit(fit: Fit) -> str | None:
    """Describe in a few words what becomes of a picture before the processor; None for nothing."""
    return _DESCRIPTIONS.get(fit)
