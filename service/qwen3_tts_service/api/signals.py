"""What an operator, or systemd, tells the running process by signals (signal(7))."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType

logger = logging.getLogger(__name__)

#: Read the API keys again.
RELOAD = signal.SIGHUP
#: Tell balancers to send nothing more, and the end of that; what comes anyway is served.
WITHDRAW, RESTORE = signal.SIGUSR1, signal.SIGUSR2


def on_termination(drain: threading.Event) -> None:
    """SIGTERM and SIGINT set ``drain``; the second one ends the process at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if drain.is_set():
            try:
                logger.warning("second signal: leaving at once, running requests are lost")
            finally:
                os._exit(128 + number)
        drain.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def on_orders(orders: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Do what each signal orders, in their order and on a thread: a handler may interrupt a log line or a lock."""
    received: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()

    def handle(number: int, frame: FrameType | None) -> None:
        received.put(signal.Signals(number))

    def obey() -> None:
        while True:
            orders[received.get()]()

    threading.Thread(target=obey, name="orders", daemon=True).start()
    for number in orders:
        signal.signal(number, handle)
