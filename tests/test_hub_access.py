"""Whether the Hub answers: asked for real, on a loopback server and on a port where nobody listens."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lora_mm.errors import InputError
from lora_mm.hub_access import UnreachableError, root_cause

ASK = "from lora_mm.hub_access import connection_error; print(connection_error())"


def asked(**environment: str) -> str:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    return subprocess.run(
        [sys.executable, "-c", ASK], env=clean | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


class Answers(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


def test_a_hub_that_answers_is_no_trouble() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert asked(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}") == "None"
    finally:
        server.shutdown()
        server.server_close()


def test_a_hub_that_does_not_answer_is_named_with_its_cause() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    port = server.server_port
    server.server_close()  # now nobody listens there
    assert "refused" in asked(HF_ENDPOINT=f"http://127.0.0.1:{port}").lower()


def test_offline_mode_is_told_as_such() -> None:
    assert asked(HF_HUB_OFFLINE="1") == "HF_HUB_OFFLINE is set"


def test_unreachable_things_are_one_line_and_the_way_out_another() -> None:
    error = UnreachableError("base 'a'", "data 'b'")
    assert isinstance(error, InputError)
    assert str(error).splitlines() == ["base 'a'; data 'b'", UnreachableError.WAY_OUT]


def test_the_innermost_cause_is_told() -> None:
    inner, outer = OSError("no route"), ValueError("failed")
    outer.__cause__ = inner
    assert root_cause(outer) == "no route"
