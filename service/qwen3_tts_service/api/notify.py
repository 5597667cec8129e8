"""Messages to systemd's notification socket (sd_notify(3)): a datagram, no library needed."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

logger = logging.getLogger(__name__)

#: A manager that is busy leaves a full queue; the way down must not wait for it (seconds).
_PATIENCE_S = 1.0


def send(*assignments: str) -> None:
    """Send ``KEY=VALUE`` lines; does nothing where systemd does not listen.

    A socket that does not take the message is logged only: systemd decides by itself what a silent unit is.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A line break inside a value would begin another assignment.
    message = "\n".join(" ".join(assignment.splitlines()) for assignment in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_PATIENCE_S)
            sender.connect(address)
            sender.sendall(message.encode(errors="replace"))
    except OSError as error:
        logger.warning("NOTIFY_SOCKET %s does not take %r: %s", address, message, error)


class StartExtension:
    """Asks for more start time while the model loads.

    A cold 4 GB load from a slow disk is not a hang. ``TimeoutStartSec`` still ends a start that makes no
    progress: the extension stops after ``limit_s`` seconds.
    """

    _EVERY_S = 5.0
    _EXTEND_US = 30_000_000

    def __init__(self, limit_s: float = 1800.0) -> None:
        self._done = threading.Event()
        self._rounds = int(limit_s / self._EVERY_S)

    def start(self) -> None:
        """Begin asking, on a thread."""
        threading.Thread(target=self._ask, name="start-extension", daemon=True).start()

    def stop(self) -> None:
        """Stop asking; the start has ended one way or the other."""
        self._done.set()

    def _ask(self) -> None:
        for _ in range(self._rounds):
            send(f"EXTEND_TIMEOUT_USEC={self._EXTEND_US}")
            if self._done.wait(self._EVERY_S):
                return


class Watchdog:
    """Tells systemd that the process still works, where its unit has ``WatchdogSec`` (sd_watchdog_enabled(3))."""

    def __init__(self) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        #: Several times within the limit, so that one delay is none; infinity where nobody wants to hear it.
        self._every_s = int(microseconds) / 3e6 if microseconds.isdecimal() else float("inf")
        self._next = time.monotonic() + (0.0 if microseconds.isdecimal() else float("inf"))

    def beat(self) -> None:
        """Called often, by the thread without which nobody is answered."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every_s
            send("WATCHDOG=1")
