"""One example: a conversation with supervised answers, and its pictures. Knows no data sets and no tokens."""

import io
import stat
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from lora_mm.errors import InputError

MAX_PIXELS = 89_478_485
"""Maximum number of pixels of a picture. Pillow warns at this limit and refuses twice as many; we refuse at this limit:
no training picture has 9,459 × 9,459 pixels, which would take 268 MB."""

MAX_ASPECT = 200
"""Maximum of a picture's longer side over its shorter one, as in Qwen's processors. Others enlarge the shorter side, so
that a picture of 1 × 2,000,000 pixels fills the memory."""

MAX_BYTES = 100_000_000
"""Maximum size of an encoded picture."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, in Pillow's names. Pillow has more, and starts Ghostscript for some of them."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageCell:
    """A picture in a table. It is read only when it is opened, so that a data set's pictures never fill the memory.

    Attributes:
        rows: the table; ``rows[row][column]["bytes"]`` is the encoded picture, as in the Hub's image columns.
        row: number of the row.
        column: name of the column.
        name: name of the picture in messages.
    """

    rows: Sequence[Any]
    row: int
    column: str
    name: str

    def read(self) -> bytes:
        """Read the encoded picture."""
        return bytes(self.rows[self.row][self.column]["bytes"])


ImageSource = Path | bytes | ImageCell
"""Source of a picture: a file, the encoded picture itself, or a cell of a table."""


PICTURE = "\ufffc"
"""Marks the place of a picture in a turn's text (Unicode's character for an embedded object)."""

LETTERS = string.ascii_uppercase
"""Letters of the choices, in order."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: role of the speaker.
        text: text with a :data:`PICTURE` for each picture; without any, all pictures go before the text.
        images: pictures in the order of their marks.
    """

    role: Role
    text: str
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A user turn with its pictures, the assistant turn to learn, and earlier turns.

    Attributes:
        id: name of the example in messages and results.
        prompt: text of the last user turn (see :class:`Turn`).
        target: text of the last assistant turn. The loss covers it and the assistant turns in the history.
        images: pictures of the last user turn.
        candidates: answers to compare by likelihood, in the order of the choices; empty for open answers.
        references: answers that count as right; empty means ``target`` only.
        answer: index of the right candidate.
        history: earlier turns: optionally a system turn, then alternating user and assistant turns.
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
        """All turns, including the answer."""
        return (*self.history, Turn("user", self.prompt, self.images), Turn("assistant", self.target))

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """The pictures of all turns, in order."""
        return (*(image for turn in self.history for image in turn.images), *self.images)


def open_image(source: ImageSource) -> Image.Image:
    """Open and decode a picture, upright and in RGB. Transparent areas become white, as on a printed page.

    Of an animation, the first frame is taken. 16-bit grey values are scaled to 8 bits.

    Raises:
        InputError: there is no such file, it is not a picture in one of :data:`FORMATS`, it is cut off or damaged, it
            exceeds :data:`MAX_PIXELS`, :data:`MAX_ASPECT` or :data:`MAX_BYTES`, or the range of its pixels is unknown.
            A partial picture is never returned.
    """
    with _open_lazily(source) as picture:
        picture.load()
        return _to_rgb(ImageOps.exif_transpose(picture), _get_name(source))


def read_size(source: ImageSource) -> tuple[int, int]:
    """Read a picture's width and height without decoding it; as stored, which may not be upright.

    Raises:
        InputError: see :func:`open_image`; damage behind the header is not found.
    """
    with _open_lazily(source) as picture:
        return picture.size


@contextmanager
def _open_lazily(source: ImageSource) -> Iterator[Image.Image]:
    """Open a picture without decoding it; errors inside the block are explained too."""
    name = _get_name(source)
    try:
        encoded = _read(source)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    if not encoded:
        raise InputError(f"{name}: empty, 0 bytes")
    if len(encoded) > MAX_BYTES:
        raise InputError(f"{name}: more than {MAX_BYTES // 10**6} MB")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise InputError(_describe_too_large(name, f"{width} × {height} pixels"))
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise InputError(
                    f"{name}: {width} × {height} pixels; the sides may differ by {MAX_ASPECT} times at most"
                )
            yield picture
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_describe_too_large(name, str(error))) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{name}: not a picture in a known format ({len(encoded)} bytes); known are {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, KeyError, …
        raise InputError(f"{name}: cut off or damaged ({str(error) or type(error).__name__})") from error


def _get_name(source: ImageSource) -> str:
    if isinstance(source, Path):
        return str(source)
    return source.name if isinstance(source, ImageCell) else f"picture in memory ({len(source)} bytes)"


def _read(source: ImageSource) -> bytes:
    if isinstance(source, Path):
        mode = source.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe or a device may never end
            raise InputError(f"{source}: not a regular file")
        with source.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
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
