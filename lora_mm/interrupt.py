"""Turns Ctrl-C into a request: work stops at its next safe point instead of immediately. Does not know the work."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether the user pressed Ctrl-C.

    Attributes:
        requested: whether the user pressed Ctrl-C since :meth:`listening` began.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block, the first Ctrl-C only sets ``requested``; the second one has its usual effect."""
        self.requested = False
        previous = signal.getsignal(signal.SIGINT)

        def request_stop(number: int, frame: Any) -> None:
            self.requested = True
            signal.signal(signal.SIGINT, previous)

        try:
            signal.signal(signal.SIGINT, request_stop)
        except ValueError:  # not the main thread, which alone receives Ctrl-C
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
