"""One example, a conversation whose answers are supervised, and its pictures. Knows no data sets and no tokens."""

import io
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from lora_mm.errors import InputError

MAX_PIXELS = 89_478_485
"""Pillow warns above this many pixels and refuses twice as many. Here it is one limit, and always refused: no picture
of a training set is 9,459 × 9,459, and decoded it would take 268 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageCell:
    """A picture inside a table, read only when it is opened, so that a data set's pictures never fill the memory.

    Attributes:
        rows: the table; ``rows[row][column]`` is a mapping whose ``bytes`` is the encoded picture (the Hub's image
            column, not decoded).
        row: number of the row.
        column: name of the column.
        name: what messages call the picture.
    """

    rows: Sequence[Any]
    row: int
    column: str
    name: str

    def read(self) -> bytes:
        """Read the encoded picture."""
        return bytes(self.rows[self.row][self.column]["bytes"])


ImageSource = Path | bytes | ImageCell
"""Where a picture is: a file, the encoded picture itself, or a cell of a table."""


PICTURE = "\ufffc"
"""Where a picture stands inside a turn's text (Unicode's character for an embedded object)."""

LETTERS = string.ascii_uppercase
"""The names of an example's choices."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation says, and its pictures.

    Attributes:
        role: who speaks.
        text: with a :data:`PICTURE` for each picture, or none: then all pictures stand before the text.
        images: the pictures, in the order of their marks.
    """

    role: Role
    text: str
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A user's turn with its pictures, the assistant's turn to learn, and what was said before.

    Attributes:
        id: names the example in messages and results.
        prompt: the text of the user's last turn (see :class:`Turn`).
        target: the assistant's last turn. The loss falls on it, and on the assistant's turns in the history.
        images: the pictures of the user's last turn.
        candidates: answers to compare by likelihood, in the order of the choices; empty for open answers.
        references: answers that count as right; empty means ``target`` alone.
        answer: index of the right one among ``candidates``.
        history: earlier turns: maybe a system's turn, then user and assistant in turns.
    """

    id: str
    prompt: str
    target: str
    images: tuple[ImageSource, ...] = ()
    candidates: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    answer: int | None = None
    history: tuple[Turn, ...] = ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns, the answer included."""
        return (*self.history, Turn("user", self.prompt, self.images), Turn("assistant", self.target))

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """The pictures of all turns in order."""
        return (*(image for turn in self.history for image in turn.images), *self.images)


def open_image(source: ImageSource) -> Image.Image:
    """Open a picture whole: decoded, upright and in RGB. Transparent parts become white, as on a printed page.

    Of an animation it is the first frame. 16-bit greys are scaled to 8 bits.

    Raises:
        InputError: names the picture and the cause: no such file, not a picture, cut off or damaged, more than
            ``MAX_PIXELS`` pixels, or pixels without a known range. A part of a picture is never returned.
    """
    name = _get_name(source)
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
                raise InputError(_describe_too_large(name, f"{width} × {height} pixels"))
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture), name)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_describe_too_large(name, str(error))) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture in a known format ({len(encoded)} bytes)") from error
    except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, KeyError, …
        raise InputError(f"{name}: cut off or damaged ({str(error) or type(error).__name__})") from error


def _get_name(source: ImageSource) -> str:
    if isinstance(source, Path):
        return str(source)
    return source.name if isinstance(source, ImageCell) else f"picture in memory ({len(source)} bytes)"


def _read(source: ImageSource) -> bytes:
    if isinstance(source, Path):
        return source.read_bytes()
    return source.read() if isinstance(source, ImageCell) else source


def _describe_too_large(name: str, size: str) -> str:
    return f"{name}: too large to open safely ({size}; the limit is {MAX_PIXELS:,} pixels)"


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode in ("I", "F"):
        raise InputError(f"{name}: pixels without a known range (mode {picture.mode}); save it with 8 bits a channel")
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda level: level / 256).convert("L")  # plain conversion would clip at 255: all white
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")
