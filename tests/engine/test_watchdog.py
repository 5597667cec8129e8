"""The second thread that notices a call which does not return."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from qwen3_tts_service.engine.watchdog import Overdue, Watchdog

pytestmark = pytest.mark.measuring

LIMIT_S = 0.2


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.on_thread: threading.Thread | None = None
        self.called = threading.Event()

    def __call__(self, sentence: str) -> None:
        self.heard.append(sentence)
        self.on_thread = threading.current_thread()
        self.called.set()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def watchdog(listener: Listener) -> Iterator[Watchdog]:
    watchdog = Watchdog(listener, shortest_s=LIMIT_S)
    watchdog.start()
    yield watchdog
    watchdog.stop()


def hang(watchdog: Watchdog, listener: Listener, error: Exception | None = None) -> None:
    with watchdog.watch("reading a frame", LIMIT_S):
        assert listener.called.wait(5.0), "nobody told that the call hangs"
        if error is not None:
            raise error


def test_a_call_that_hangs_is_told_while_it_hangs(watchdog: Watchdog, listener: Listener) -> None:
    began = time.monotonic()
    with pytest.raises(Overdue):
        hang(watchdog, listener)
    assert LIMIT_S <= time.monotonic() - began < 2 * LIMIT_S + 1.0
    assert listener.heard == ["reading a frame took longer than 0.2 s"]
    assert listener.on_thread is not threading.current_thread()


def test_nothing_that_comes_too_late_is_used(watchdog: Watchdog, listener: Listener) -> None:
    with pytest.raises(Overdue):
        hang(watchdog, listener)
    with pytest.raises(Overdue), watchdog.watch("reading a frame", LIMIT_S):
        pass
    assert len(listener.heard) == 1


def test_an_error_that_comes_too_late_is_kept_as_the_cause(watchdog: Watchdog, listener: Listener) -> None:
    with pytest.raises(Overdue) as raised:
        hang(watchdog, listener, RuntimeError("the device was reset"))
    assert str(raised.value.__cause__) == "the device was reset"


def test_quick_calls_and_long_rests_between_them_are_fine(watchdog: Watchdog, listener: Listener) -> None:
    until = time.monotonic() + 3 * LIMIT_S
    while time.monotonic() < until:
        with watchdog.watch("reading a frame", LIMIT_S):
            time.sleep(0.01)
    time.sleep(2 * LIMIT_S)
    assert not listener.called.is_set()


def test_a_first_use_may_take_longer(watchdog: Watchdog, listener: Listener) -> None:
    with watchdog.watch("a frame", 10 * LIMIT_S):
        time.sleep(3 * LIMIT_S)
    assert not listener.called.is_set()


def test_errors_in_time_pass_through(watchdog: Watchdog) -> None:
    with pytest.raises(ValueError, match="of its own"), watchdog.watch("reading a frame", LIMIT_S):
        raise ValueError("of its own")


def test_a_stopped_watchdog_tells_nothing(watchdog: Watchdog, listener: Listener) -> None:
    with watchdog.watch("reading a frame", LIMIT_S):
        watchdog.stop()
        time.sleep(2 * LIMIT_S)
    assert not listener.called.is_set()
