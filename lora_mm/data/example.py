"""One supervised exchange and its pictures. Knows nothing about data sets, prompts, tokens or training."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from lora_mm.errors import InputError

# Pillow warns above this many pixels and refuses twice as many. One limit, and always a refusal: no picture of a
# training set is 9,459 × 9,459, and decoded it would take 268 MB.
MAX_PIXELS = 89_478_485


@dataclass(frozen=True, slots=True, eq=False)
class ImageCell:
    """A picture inside a table, read only when it is opened, so that a data set's pictures never fill the memory.

    ``rows[row][column]`` is a mapping whose ``bytes`` is the encoded picture (the Hub's image column, not decoded).
    ``name`` is how messages call it.
    """

    rows: Sequence[Any]
    row: int
    column: str
    name: str

    def read(self) -> bytes:
        """The encoded picture."""
        return bytes(self.rows[self.row][self.column]["bytes"])


ImageSource = Path | bytes | ImageCell
"""Where a picture is: a file, the encoded picture itself, or a cell of a table."""


PICTURE = "\ufffc"
"""Where a picture stands inside a turn's text (Unicode's character for an embedded object)."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation said, and the pictures shown with it.

    A text has a :data:`PICTURE` for each of its pictures, or none: then all of them stand before it.
    """

    role: Role
    text: str
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised exchange: a user's turn with its pictures, and the assistant's turn to learn.

    Of a longer conversation it is the last exchange, and ``history`` is what was said before.
    """

    id: str
    prompt: str
    """The user's turn, without the pictures (see :class:`Turn`)."""
    target: str
    """The assistant's turn; the loss falls on it, and on the assistant's turns in the history."""
    images: tuple[ImageSource, ...] = ()
    candidates: tuple[str, ...] = ()
    """Assistant's turns to compare by likelihood, in the order of the choices; empty for open answers."""
    references: tuple[str, ...] = ()
    """Answers that count as right; empty means ``target`` alone."""
    answer: int | None = None
    """Index of the right one among ``candidates``."""
    history: tuple[Turn, ...] = ()
    """Maybe a system's turn, then turns of user and assistant, one after the other."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole conversation, the answer included."""
        return (*self.history, Turn("user", self.prompt, self.images), Turn("assistant", self.target))

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """The conversation's pictures in order."""
        return (*(image for turn in self.history for image in turn.images), *self.images)


def open_image(source: ImageSource) -> Image.Image:
    """The whole picture, decoded, upright and in RGB; transparent parts lie on white, as on a printed page.

    Of an animation it is the first frame. 16-bit greys are scaled to 8 bits.

    Raises:
        InputError: naming the picture and the cause: no such file, not a picture, cut off or damaged, more than
            ``MAX_PIXELS`` pixels, or pixels without a known range. A part of a picture is never returned.
    """
    name = _name(source)
    try:
        encoded = _read(source)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    if not encoded:
        raise InputError(f"{name}: empty, 0 bytes")
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise InputError(_too_large(name, f"{width} × {height} pixels"))
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture), name)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_too_large(name, str(error))) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture in a known format ({len(encoded)} bytes)") from error
    except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, KeyError, …
        raise InputError(f"{name}: cut off or damaged ({str(error) or type(error).__name__})") from error


def _name(source: ImageSource) -> str:
    if isinstance(source, Path):
        return str(source)
    return source.name if isinstance(source, ImageCell) else f"picture in memory ({len(source)} bytes)"


def _read(source: ImageSource) -> bytes:
    if isinstance(source, Path):
        return source.read_bytes()
    return source.read() if isinstance(source, ImageCell) else source


def _too_large(name: str, size: str) -> str:
    return f"{name}: too large to be opened safely ({size}; the limit is {MAX_PIXELS:,} pixels)"


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode in ("I", "F"):
        raise InputError(f"{name}: its pixels have no known range (mode {picture.mode}); save it with 8 bits a channel")
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda level: level / 256).convert("L")  # plain conversion would clip at 255: all white
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")
