"""What every page shares: one file that fetches and runs nothing, its pictures inside it. Knows no contents."""

import base64
import io
from pathlib import Path

from PIL import Image

from lora_mm.evaluation.html.markup import Html, tag


def render_document(title: str, style: Path, *body: Html) -> str:
    """A whole page; whatever a data set's texts hold, it asks nothing of any other place.

    Args:
        style: the CSS file whose text goes into it.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", Html(style.read_text(encoding="utf-8"))),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"


def embed_picture(picture: Image.Image, side: int, quality: int) -> str:
    """A picture as a ``data:`` address, made to fit a square of ``side`` pixels in place."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
