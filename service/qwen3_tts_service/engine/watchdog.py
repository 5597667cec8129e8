"""A second thread that notices when a call does not return: a GPU that hangs raises nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Overdue(Exception):
    """Raised in the watched thread when its call came back after all, too late to matter."""


class Watchdog:
    """Watches one thread's calls: ``with watchdog.watch("reading a frame", 10.0): ...``.

    A call that takes longer than its limit makes ``on_overdue`` be called once, with a sentence that says which
    call and for how long, on the watchdog's own thread and while the call still hangs. From then on every
    ``watch`` raises Overdue when it is left: the watched thread never acts on what came too late.

    ``shortest_s`` is the smallest limit that will be asked for (seconds): the thread sleeps for that long, so
    that watching costs two assignments a call and no wake-up.
    """

    def __init__(self, on_overdue: Callable[[str], None], *, shortest_s: float) -> None:
        self._on_overdue = on_overdue
        self._shortest_s = shortest_s
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._call = ""
        self._limit_s = 0.0
        self._due: float | None = None
        self._fired = False
        self._thread = threading.Thread(target=self._run, name="frame-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch. Before it, calls may take as long as they like."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the thread is gone when this returns."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def watch(self, call: str, limit_s: float) -> Watchdog:
        """Give the call that follows ``limit_s`` seconds. Calls do not nest."""
        with self._lock:
            self._call, self._limit_s, self._due = call, limit_s, time.monotonic() + limit_s
        return self

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._due = None
            if self._fired:
                raise Overdue(self._call) from error

    def _run(self) -> None:
        # A call that begins while this sleeps is due after the sleep at the earliest, so none is seen late.
        rest_s = self._shortest_s
        while not self._stopped.wait(rest_s):
            with self._lock:
                left_s = self._shortest_s if self._due is None else self._due - time.monotonic()
                self._fired = left_s <= 0.0
                sentence = f"{self._call} took longer than {self._limit_s:g} s"
            if self._fired:
                self._on_overdue(sentence)
                return
            rest_s = min(left_s, self._shortest_s)
