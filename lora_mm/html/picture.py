"""Embeds a picture in a page. Knows no page."""

import base64
import io

from PIL import Image


def embed_picture(picture: Image.Image, side: int, quality: int) -> str:
    """Encode a picture as a ``data:`` URL.

    Args:
        picture: RGB picture; it is shrunk in place.
        side: longest side in pixels.
        quality: JPEG quality, 1 to 95.

    Returns:
        A ``data:image/jpeg;base64,…`` URL.
    """
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
