"""Embeds a picture in an HTML page. Knows no page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a page, or the reason why it is not shown.

    Attributes:
        url: a ``data:`` URL that holds the picture.
        width, height: as embedded, in pixels.
        original: width and height before it was shrunk.
        note: why it is not shown; the other fields are then empty.
    """

    url: str = ""
    width: int = 0
    height: int = 0
    original: tuple[int, int] = (0, 0)
    note: str = ""


def embed_picture(picture: Image.Image, side: int, quality: int) -> Picture:
    """Encode a picture as a JPEG inside the page.

    Args:
        picture: RGB picture; it is shrunk in place.
        side: longest side in pixels.
        quality: JPEG quality, 1 to 95.
    """
    original = picture.size
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, optimize=True)
    url = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return Picture(url, *picture.size, original)
