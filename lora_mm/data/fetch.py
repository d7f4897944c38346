"""A picture by path or URL, as people type it. Knows files and the web; knows no data set."""

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from lora_mm.data.example import ImageCell, ImageSource, open_image
from lora_mm.errors import InputError

TIMEOUT = 30.0
"""Seconds in which a picture has come, or is given up."""
MAX_BYTES = 100_000_000

_CHUNK = 1 << 16
_AGENT = {"User-Agent": "lora-mm"}  # Wikimedia, among others, refuses Python's own name


def fetch_picture(place: str) -> ImageSource:
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
        with urllib.request.urlopen(urllib.request.Request(url, headers=_AGENT), timeout=TIMEOUT) as response:
            promised = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read1(_CHUNK):
                encoded += chunk
                if max(promised, len(encoded)) > MAX_BYTES:
                    raise InputError(f"{url}: more than {MAX_BYTES // 10**6} MB")
                if time.monotonic() > end:
                    raise TimeoutError
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not a URL after all
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise InputError(f"{url}: did not come within {TIMEOUT:.0f} seconds") from error
        raise InputError(f"{url}: {reason or type(error).__name__}") from error
    if len(encoded) < promised:
        raise InputError(f"{url}: cut off, {len(encoded):,} of {promised:,} bytes came")
    return bytes(encoded)
