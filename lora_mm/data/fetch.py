"""Fetches a picture by path or URL. Knows files and the web; knows no data set."""

import http.client
import time
import urllib.error
import urllib.request

from lora_mm.data.example import MAX_BYTES, ImageCell, ImageSource, open_image
from lora_mm.errors import InputError
from lora_mm.paths import resolve_path

TIMEOUT = 30.0
"""Maximum duration of a download in seconds."""

_CHUNK = 1 << 16
_AGENT = {"User-Agent": "lora-mm"}  # Wikimedia, among others, refuses Python's default


def fetch_picture(address: str) -> ImageSource:
    """Fetch the picture at a path or an http(s) URL, and check that it can be opened.

    Raises:
        InputError: the picture cannot be opened (see :func:`~lora_mm.data.example.open_image`), the connection fails,
            the picture has more than :data:`~lora_mm.data.example.MAX_BYTES` bytes, or the download takes longer than
            :data:`TIMEOUT`.
    """
    source: ImageSource
    if address.startswith(("http://", "https://")):
        source = ImageCell([{"picture": {"bytes": _download(address)}}], 0, "picture", address)
    else:
        source = resolve_path(address, "picture")
    open_image(source)
    return source


def _download(url: str) -> bytes:
    deadline = time.monotonic() + TIMEOUT
    encoded = bytearray()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=_AGENT), timeout=TIMEOUT) as response:
            expected = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read1(_CHUNK):
                encoded += chunk
                if max(expected, len(encoded)) > MAX_BYTES:
                    raise InputError(f"{url}: more than {MAX_BYTES // 10**6} MB")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not a URL after all
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise InputError(f"{url}: the download took more than {TIMEOUT:.0f} seconds") from error
        raise InputError(f"{url}: {reason or type(error).__name__}") from error
    if len(encoded) < expected:
        raise InputError(f"{url}: truncated, received {len(encoded):,} of {expected:,} bytes")
    return bytes(encoded)
