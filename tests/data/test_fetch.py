"""Pictures by path and by URL, from a real server on this machine that also misbehaves."""

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from lora_mm.data import fetch
from lora_mm.data.example import open_image
from lora_mm.data.fetch import fetch_picture
from lora_mm.errors import InputError


def encoded(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(stream, "PNG")
    return stream.getvalue()


class Pictures(BaseHTTPRequestHandler):
    """Answers by path, as named."""

    def do_GET(self) -> None:
        if self.path == "/gone.png":
            self.send_error(404)
        elif self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/red.png")
            self.end_headers()
        elif self.path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/slow.png":
            self.send_response(200)
            self.end_headers()
            try:
                for byte in encoded():
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                pass  # whoever asked has gone
        else:
            body = {"/red.png": encoded(), "/page.html": b"<html>", "/cut.png": encoded()}[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:30] if self.path == "/cut.png" else body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refusal(place: str) -> str:
    with pytest.raises(InputError) as error:
        fetch_picture(place)
    (line,) = error.value.faults
    return line


def test_a_picture_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    assert open_image(fetch_picture(str(tmp_path / "a.png"))).size == (9, 7)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_image(fetch_picture("~/a.png")).size == (9, 7)
    assert str(tmp_path / "b.png") in refusal(str(tmp_path / "b.png"))


@pytest.mark.parametrize("path", ["/red.png", "/moved.png"])
def test_a_picture_by_url(server: str, path: str) -> None:
    picture = open_image(fetch_picture(server + path))
    assert picture.size == (9, 7)
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_what_is_wrong_is_told_with_the_url(server: str) -> None:
    assert refusal(f"{server}/gone.png") == f"{server}/gone.png: 404 Not Found"
    assert refusal(f"{server}/page.html").startswith(f"{server}/page.html: not a picture in a known format (6 bytes)")
    assert "truncated, received 30 of" in refusal(f"{server}/cut.png")
    assert "file" in refusal(f"{server}/to-a-file")


def test_no_server_and_no_url_are_told() -> None:
    port = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    place = f"http://127.0.0.1:{port.server_port}/a.png"
    port.server_close()  # now nobody listens there
    assert "refused" in refusal(place)
    assert refusal("http:///a.png").startswith("http:///a.png: ")


def test_sizes_and_times_are_bounded(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 20)
    assert "more than 0 MB" in refusal(f"{server}/red.png")
    monkeypatch.setattr(fetch, "MAX_BYTES", 10**6)
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    assert "the download took more than 0 seconds" in refusal(f"{server}/slow.png")
