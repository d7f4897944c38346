"""Ctrl-C as a question: work that listens ends where it can, not where it stands. Knows nothing of the work."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """While listening, the first Ctrl-C only sets ``asked``; the second does what it does everywhere."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C for the length of a block, starting with ``asked`` unset."""
        self.asked = False
        before = signal.getsignal(signal.SIGINT)

        def ask(number: int, frame: Any) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before)

        try:
            signal.signal(signal.SIGINT, ask)
        except ValueError:  # not in the main thread: nobody can press Ctrl-C here
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
