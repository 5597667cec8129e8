"""The way of one request: queue, engine, encoder. The only module that joins the stages.

One request is spoken at a time. The queue in front is bounded and first come, first served; whoever waits or
speaks is asked all the time whether the client is still there and whether the deadline has passed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .audio import encoders
from .errors import Cancelled, DeadlineExceeded, Draining, QueueFull
from .speech.request import SAMPLES_A_FRAME, SpeechRequest

#: How often a waiting request looks at its client and its deadline (seconds).
_LOOK_S = 0.05
#: Weight of the newest request in the running mean of durations.
_NEWEST = 0.3


class Engine(Protocol):
    """What turns a request into sound. Implementations check requests and stop when asked to."""

    @property
    def sample_rate(self) -> int:
        """Samples a second of the waveform."""

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that ``synthesize`` would raise."""

    def synthesize(
        self, request: SpeechRequest, *, should_stop: Callable[[], bool]
    ) -> npt.NDArray[np.float32]:
        """Speak; raise Cancelled soon after ``should_stop`` says so."""


@dataclass(frozen=True)
class Speech:
    """A finished request."""

    audio: bytes
    #: Seconds of sound.
    audio_s: float
    #: Seconds in the queue, and seconds of computing.
    queue_s: float
    compute_s: float
    #: ``stop`` when the model ended by itself, ``length`` when the limit cut it off.
    finish: str


class Synthesis:
    """The bounded queue and what stands behind it."""

    def __init__(self, engine: Engine, *, queue_size: int) -> None:
        self.engine = engine
        self._queue_size = queue_size
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._running = False
        self._closed = False
        self._mean_s = 1.0

    def speak(
        self,
        request: SpeechRequest,
        *,
        audio_format: str,
        timeout_s: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> Speech:
        """Wait for the turn, speak and encode. Blocks.

        ``gone`` says that nobody reads the result any more. Raises InvalidRequest before queueing, QueueFull,
        Draining, DeadlineExceeded after ``timeout_s`` seconds, Cancelled, and EngineError.
        """
        self.engine.check(request)
        arrived = time.monotonic()
        deadline = arrived + timeout_s
        with self._turn(deadline, gone):
            started = time.monotonic()
            try:
                waveform = self.engine.synthesize(
                    request, should_stop=lambda: gone() or time.monotonic() > deadline
                )
            except Cancelled:
                if time.monotonic() > deadline:
                    raise self._too_late() from None
                raise
            audio = encoders.encode(waveform, sample_rate=self.engine.sample_rate, audio_format=audio_format)
            compute_s = time.monotonic() - started
            self._mean_s += _NEWEST * (compute_s - self._mean_s)
        return Speech(
            audio=audio,
            audio_s=len(waveform) / self.engine.sample_rate,
            queue_s=started - arrived,
            compute_s=compute_s,
            finish="length" if len(waveform) >= request.max_frames * SAMPLES_A_FRAME else "stop",
        )

    @contextmanager
    def _turn(self, deadline: float, gone: Callable[[], bool]) -> Iterator[None]:
        ticket = object()
        with self._changed:
            if self._closed:
                raise Draining("the service is going down and takes no new work", retry_after_s=5.0)
            # Counted with the one that runs: between two turns nobody runs, and the queue must not grow then.
            if self._running + len(self._waiting) > self._queue_size:
                raise QueueFull(
                    f"{len(self._waiting)} requests are waiting and {self._queue_size} may: try again later",
                    retry_after_s=self._retry_after_s(),
                )
            self._waiting.append(ticket)
            try:
                while self._running or self._waiting[0] is not ticket:
                    self._changed.wait(_LOOK_S)
                    if gone():
                        raise Cancelled("the client went away while its request waited")
                    if time.monotonic() > deadline:
                        raise self._too_late()
                self._running = True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _retry_after_s(self) -> float:
        """Until a place in the queue is free: the running request, by the measured mean."""
        return max(1.0, self._mean_s)

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            "the request was not finished within its time: shorten the text, or try again when less is going on",
            retry_after_s=max(1.0, self._mean_s * (1 + len(self._waiting))),
        )

    def close(self) -> None:
        """Take no new requests; those that wait or run are finished."""
        with self._changed:
            self._closed = True

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until nothing waits or runs; false when ``timeout_s`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._running or self._waiting), timeout_s)
