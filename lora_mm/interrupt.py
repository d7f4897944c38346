"""Turns Ctrl-C and the signals that end a job into a request to stop at the next safe point. Does not know the work."""

import copy
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.context import BaseContext
from typing import Any

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C; what schedulers and ``kill`` send; what a terminal sends when it closes. Windows has no SIGHUP."""


class Stopped(BaseException):
    """The process received a stop signal other than Ctrl-C. Not an Exception, as KeyboardInterrupt is none.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def get_exit_code(stop: BaseException) -> int:
    """The exit code of a process that a signal ended, by the convention of shells: 130 after Ctrl-C, 143, 129."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def raise_stop_signals() -> None:
    """Let the other stop signals raise :class:`Stopped`, as Ctrl-C raises KeyboardInterrupt, so that files are closed.

    A signal that the process was started to ignore (``nohup``) stays ignored.
    """

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


class WorkerProcess(multiprocessing.Process):
    """A process that stop signals do not reach: it ends with the process that started it, which saves first.

    A terminal and some schedulers send these signals to all processes of a job.
    """

    def start(self) -> None:
        """Start with the signals blocked: a process inherits that, and handlers that it sets itself change nothing."""
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            super().start()
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make_worker_context() -> BaseContext:
    """Make the default multiprocessing context, with :class:`WorkerProcess` as its process."""
    context: Any = copy.copy(multiprocessing.get_context())
    context.Process = WorkerProcess
    return context


class Interrupt:
    """Whether somebody asked to stop.

    Args:
        signals: the signals that ask for it.

    Attributes:
        signal: the signal that was received since :meth:`listening` began; 0 if none was.
    """

    def __init__(self, signals: Sequence[int] = STOP_SIGNALS) -> None:
        self.signal, self._signals = 0, signals

    @property
    def requested(self) -> bool:
        """Whether one was received."""
        return bool(self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block, the first signal is only noted; the next one has its usual effect."""
        self.signal = 0
        with ExitStack() as stack:
            for number in self._signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._note(number, stack)
            yield

    def _note(self, number: int, stack: ExitStack) -> None:
        previous = signal.getsignal(number)

        def note(received: int, frame: Any) -> None:
            self.signal = received
            signal.signal(received, previous)

        try:
            signal.signal(number, note)
        except ValueError:  # not the main thread, which alone receives signals
            return
        stack.callback(signal.signal, number, previous)
