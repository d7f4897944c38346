"""Signals that end a job: noted while work is under way, raised elsewhere, and kept from worker processes."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from lora_mm.interrupt import STOP_SIGNALS, Interrupt, Stopped, WorkerProcess, get_exit_code, raise_stop_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_is_noted_and_the_second_ends_the_process(number: int, code: int) -> None:
    raise_stop_signals()
    interrupt = Interrupt()
    with interrupt.listening():
        os.kill(os.getpid(), number)
        assert interrupt.signal == number
        with pytest.raises((KeyboardInterrupt, Stopped)) as stop:
            os.kill(os.getpid(), number)
    assert get_exit_code(stop.value) == code
    assert isinstance(stop.value, Stopped) == (number != signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """``nohup`` starts a program so."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise_stop_signals()
    interrupt = Interrupt()
    with interrupt.listening():
        os.kill(os.getpid(), signal.SIGHUP)
    assert not interrupt.requested


def test_other_signals_than_asked_for_end_the_process() -> None:
    raise_stop_signals()
    interrupt = Interrupt([signal.SIGINT])
    with pytest.raises(Stopped), interrupt.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert not interrupt.requested


def _kill_itself() -> None:
    for number in STOP_SIGNALS:
        os.kill(os.getpid(), number)


def test_a_worker_gets_none() -> None:
    worker = WorkerProcess(target=_kill_itself)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
