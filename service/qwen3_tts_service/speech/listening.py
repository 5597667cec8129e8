"""Who hears a request being spoken: the one side of the seam between those who speak and those who read.

Whoever speaks (an engine with its codec, or another process for it) tells a :class:`Listener` and never waits
for it. A :class:`Reader` is the listener that a thread iterates over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import Cancelled, DeadlineExceeded, TTSError
from .request import SAMPLES_A_FRAME

#: How far a speaker may be ahead of its listener, in frames of 80 ms: 20 s of sound, 2 MB.
AHEAD_FRAMES = 250

#: How a request ended: by itself, at its length limit, given up by its client, or out of time.
Finish = Literal["stop", "length", "cancelled", "deadline"]

Waveform = npt.NDArray[np.float32]

#: How often a reader that waits looks at its client and its deadline (seconds).
_LOOK_S = 0.05


class Listener(Protocol):
    """Hears one request. Called on the speaker's threads: no method may wait for anything."""

    @property
    def taken(self) -> int:
        """Frames of sound that were taken so far: a speaker that is far ahead of them pauses."""

    def gone(self) -> bool:
        """Whether nobody listens any more: asked before every frame."""

    def hear(self, chunk: Waveform) -> None:
        """Take the next samples, whole frames of them."""

    def end(self, finish: Finish | None, error: TTSError | None) -> None:
        """Called exactly once and last: how it ended, and what is raised to who reads, if anything."""


class Speaker(Protocol):
    """A request under way, for who listens."""

    @property
    def text_tokens(self) -> int:
        """Tokens of its text."""

    def cancel(self) -> None:
        """Give up: nobody listens any more. Never blocks, from any thread, at any time."""


class Reader:
    """A listener of what ``start`` begins to speak to it, raising what that raises.

    Iterate for the sound: float32 waveforms in [-1, 1], in order, as they are made.

    Iterating blocks. It raises, once, what ended the request before its end: Cancelled, DeadlineExceeded, or
    the EngineError of engine or codec; sound that has not been taken is dropped then. One thread iterates,
    everything else may be used from any. ``deadline`` is a time of ``time.monotonic``.
    """

    def __init__(
        self, start: Callable[[Listener], Speaker], *, deadline: float, cancelled: Callable[[], bool]
    ) -> None:
        self._deadline = deadline
        self._is_cancelled = cancelled
        self._changed = threading.Condition()
        self._chunks: deque[Waveform] = deque()
        self._heard = self._taken = 0
        self._finish: Finish | None = None
        self._error: TTSError | None = None
        self._over = False
        self._speaker = start(self)

    @property
    def finish(self) -> Finish | None:
        """How it ended, though chunks may wait to be taken; None before, and after an error of engine or codec."""
        return self._finish

    @property
    def made_frames(self) -> int:
        """Frames that were heard, be they taken or not."""
        return self._heard

    @property
    def text_tokens(self) -> int:
        """Tokens of the text."""
        return self._speaker.text_tokens

    @property
    def taken(self) -> int:
        """Frames that were read."""
        return self._taken

    def gone(self) -> bool:
        """Whether its client has left."""
        return self._is_cancelled()

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Waveform:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._over, _LOOK_S)
                error, self._error = self._error, None
                if error is not None:
                    raise error
                if self._chunks:
                    chunk = self._chunks.popleft()
                    self._taken += len(chunk) // SAMPLES_A_FRAME
                    self._note_taken()
                    return chunk
                if self._over:
                    raise StopIteration
            self._look()

    def cancel(self) -> None:
        """Give up. Never blocks; its slot is free within two frames."""
        self.end("cancelled", Cancelled("the request was given up while it was spoken"))
        self._speaker.cancel()

    def hear(self, chunk: Waveform) -> None:
        """As :class:`Listener`."""
        with self._changed:
            if not self._over:
                self._heard += len(chunk) // SAMPLES_A_FRAME
                self._chunks.append(chunk)
                self._changed.notify_all()

    def end(self, finish: Finish | None, error: TTSError | None) -> None:
        """As :class:`Listener`; what comes after the first end changes nothing."""
        with self._changed:
            if self._over:
                return
            self._over = True
            self._finish, self._error = finish, error
            if error is not None:
                self._chunks.clear()
            self._changed.notify_all()

    def _note_taken(self) -> None:
        """For a speaker that cannot ask for ``taken``."""

    def _look(self) -> None:
        """What a waiting reader asks itself. Outside the lock: the answers take others."""
        if self._is_cancelled():
            self.cancel()
        elif time.monotonic() >= self._deadline:
            self.end("deadline", out_of_time(self._heard))
            self._speaker.cancel()


def out_of_time(frames: int) -> DeadlineExceeded:
    """The error of a request whose deadline came after so many frames."""
    return DeadlineExceeded(
        f"the request was not finished within its time, {frames} frames of 80 ms were spoken",
        retry_after_s=1.0,
    )
