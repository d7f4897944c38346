"""Fits a picture into a square before a base's processor sees it. Knows a processor's settings; knows no model.

LLaVA-1.5 was trained on pictures padded to squares, but the CLIP processor in its checkpoint crops their centre.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from lora_mm.models.picture_fit import Fit

Size = tuple[int, int]
"""Width and height in pixels."""

Colour = tuple[int, int, int]
"""Red, green and blue, from 0 to 255."""

_LONGEST_SIDE = 8192
"""Maximum side of a square; a longer picture is shrunk first. Padded as it is, 90,000 × 900 pixels would need 24 GB."""


def _pad(picture: Image.Image, side: int, background: Colour) -> Image.Image:
    """LLaVA's ``expand2square`` (haotian-liu/LLaVA, llava/mm_utils.py, c121f04): the picture is in the centre."""
    if max(picture.size) > side:
        picture = ImageOps.contain(picture, (side, side), Image.Resampling.BICUBIC)
    square = Image.new(picture.mode, (side, side), background)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _squash(picture: Image.Image, side: int, background: Colour) -> Image.Image:
    """LaVIN's ``Resize((224, 224))`` (luogen1996/LaVIN, util/datasets.py, dd0a1bf), at the base's own size."""
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def _crop(picture: Image.Image, side: int, background: Colour) -> Image.Image:
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to make a square.

    Attributes:
        get_side: (size of the picture, side of the processor's input or None) → side of the square.
        make: (picture, side, colour of what is added) → square.
    """

    get_side: Callable[[Size, int | None], int]
    make: Callable[[Image.Image, int, Colour], Image.Image]


_FORMS: dict[Fit, _Form] = {
    "pad": _Form(lambda size, window: min(max(size), _LONGEST_SIDE), _pad),
    "squash": _Form(lambda size, window: window or min(max(size), _LONGEST_SIDE), _squash),
    "crop": _Form(lambda size, window: min(size), _crop),
}

_PADDING_PROCESSORS = {
    "CLIPImageProcessor": "LlavaImageProcessor",
    "CLIPImageProcessorPil": "LlavaImageProcessorPil",
    "LlavaImageProcessor": "LlavaImageProcessor",
    "LlavaImageProcessorPil": "LlavaImageProcessorPil",
}
"""Class of an image processor → class that takes the same settings and pads to a square with ``do_pad``."""


@dataclass(frozen=True, slots=True)
class CentreCrop:
    """A processor's centre crop of the picture that it has resized.

    Attributes:
        resized: size to which a picture is resized; a number is its shorter side, with the aspect kept.
        window: size of the crop.
    """

    resized: int | Size
    window: Size

    def measure_kept(self, size: Size) -> tuple[float, float]:
        """Return the shares of a picture's width and height that are left, from 0 to 1."""
        if isinstance(self.resized, int):
            width, height = (edge * self.resized / min(size) for edge in size)
        else:
            width, height = self.resized
        return min(1.0, self.window[0] / width), min(1.0, self.window[1] / height)

    def find_box(self, size: Size) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of what is left, in the picture's pixels."""
        width, height = (round(edge * kept) for edge, kept in zip(size, self.measure_kept(size), strict=True))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return left, top, left + width, top + height


@dataclass(frozen=True, slots=True)
class Fitter:
    """Fits pictures for one processor.

    Attributes:
        fit: how a picture becomes a square.
        background: colour that ``pad`` adds.
        window: side of the processor's input, if that is a square of one size; ``squash`` then resizes only once.
        centre_crop: the processor's centre crop, if it has one.
    """

    fit: Fit = "processor"
    background: Colour = (0, 0, 0)
    window: int | None = None
    centre_crop: CentreCrop | None = None

    @property
    def cuts(self) -> bool:
        """Whether parts of pictures may be cut off."""
        return self.fit == "crop" or self.centre_crop is not None

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Fit an RGB picture; one that has the right size stays as it is."""
        size = self.measure(picture.size)
        return picture if size == picture.size else _FORMS[self.fit].make(picture, size[0], self.background)

    def measure(self, size: Size) -> Size:
        """Return the size of a picture after fitting."""
        if self.fit == "processor":
            return size
        side = _FORMS[self.fit].get_side(size, self.window)
        return side, side

    def show(self, picture: Image.Image) -> Image.Image:
        """Fit an RGB picture, and cut off what the processor cuts off."""
        fitted = self(picture)
        return fitted.crop(self.centre_crop.find_box(fitted.size)) if self.centre_crop else fitted

    def measure_cut(self, size: Size) -> float:
        """Return the share of a picture's area that is cut off, from 0 to 1."""
        kept = min(size) / max(size) if self.fit == "crop" else 1.0
        if self.centre_crop:
            width, height = self.centre_crop.measure_kept(self.measure(size))
            kept *= width * height
        return 1 - kept


AS_IS = Fitter()
"""Leaves every picture as it is."""


def make_fitter(processor: Any, fit: Fit, *, one_view: bool) -> Fitter:
    """Make the fitter for a base's processor.

    Args:
        processor: the base's processor.
        fit: how a picture becomes a square.
        one_view: whether the model sees one view of a picture, at one size. Tiles and native resolutions show all of
            it, and need no resizing before.
    """
    settings = processor.image_processor.to_dict()
    background = _get_mean_colour(settings.get("image_mean"))
    size, crop = ({**(settings.get(name) or {})} for name in ("size", "crop_size"))
    if not one_view:
        return Fitter(fit, background)
    centre_crop = None
    if settings.get("do_center_crop") and crop and not settings.get("do_pad"):  # nothing to cut off a padded square
        resized = size.get("shortest_edge") or (size["width"], size["height"])
        centre_crop = CentreCrop(resized, (crop["width"], crop["height"]))
    edges = crop if settings.get("do_center_crop") else size
    window = edges.get("width")
    return Fitter(fit, background, window if window == edges.get("height") else None, centre_crop)


def make_fitting_processor(processor: Any, fit: Fit) -> Any | None:
    """Make a processor that fits pictures itself, for readers without lora-mm.

    Args:
        processor: the base's processor.
        fit: how pictures are fitted before ``processor``.

    Returns:
        ``processor`` itself if there is nothing to add; None if no class of transformers does it.
    """
    if fit == "processor":
        return processor
    image = processor.image_processor
    kind = _PADDING_PROCESSORS.get(type(image).__name__)
    if fit != "pad" or kind is None:
        return None
    import transformers

    fitting = copy.copy(processor)
    settings = {name: value for name, value in image.to_dict().items() if name != "image_processor_type"}
    fitting.image_processor = getattr(transformers, kind)(**{**settings, "do_pad": True})
    return fitting


def _get_mean_colour(mean: float | Sequence[float] | None) -> Colour:
    """Return what a processor turns to about zero, rounded down as LLaVA does; black without a mean."""
    levels = mean if isinstance(mean, Sequence) else [mean or 0.0] * 3
    red, green, blue = (int(level * 255) for level in levels)
    return red, green, blue
