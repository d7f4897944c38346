"""A picture by path or URL, as people type it. Knows files and the web; knows no data set."""

import time
from pathlib import Path

import httpx

from lora_mm.data.example import ImageCell, ImageSource, open_image
from lora_mm.errors import InputError
from lora_mm.hub import cause

TIMEOUT = 30.0
"""Seconds in which a picture has come, or is given up."""
MAX_BYTES = 100_000_000


def find_picture(place: str) -> ImageSource:
    """The picture at ``place``, a path or an http(s) URL; it has been opened once, so it can be.

    Raises:
        InputError: naming the place and what is wrong there (see :func:`~lora_mm.data.example.open_image`), or with
            the connection; for more than :data:`MAX_BYTES`, or a server slower than :data:`TIMEOUT`.
    """
    source: ImageSource
    if place.startswith(("http://", "https://")):
        source = ImageCell([{"picture": {"bytes": _download(place)}}], 0, "picture", place)
    else:
        source = Path(place).expanduser()
    open_image(source)
    return source


def _download(url: str) -> bytes:
    end = time.monotonic() + TIMEOUT
    encoded = bytearray()
    try:
        with httpx.stream("GET", url, timeout=TIMEOUT, follow_redirects=True) as response:
            if response.is_error:
                raise InputError(f"{url}: {response.status_code} {response.reason_phrase}")
            for chunk in response.iter_bytes():
                encoded += chunk
                if len(encoded) > MAX_BYTES:
                    raise InputError(f"{url}: more than {MAX_BYTES // 10**6} MB")
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("too slow")
    except httpx.TimeoutException as error:
        raise InputError(f"{url}: did not come within {TIMEOUT:.0f} seconds") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"{url}: {cause(error)}") from error
    return bytes(encoded)
