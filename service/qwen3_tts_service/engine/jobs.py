"""What the frame loop works on: a request, who takes its frames, and the two together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import TTSError
from ..speech.listening import Finish

if TYPE_CHECKING:
    from ..speech.request import Sampling
    from .prompt import Prompt


@dataclass(frozen=True, eq=False)
class FrameRequest:
    """What the engine is asked for. ``deadline`` is a time of ``time.monotonic``, ``max_frames`` the budget."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    max_frames: int
    deadline: float


class FrameSink(Protocol):
    """Who takes a request's frames. Called on the engine's thread: no method may wait for anything."""

    def frame(self, codes: npt.NDArray[np.int32]) -> None:
        """Take the codes [16] of the next frame."""

    def full(self) -> bool:
        """Whether to hold the request: asked before every frame, and one more frame may come after a yes."""

    def finished(self, reason: Finish | None, error: TTSError | None) -> None:
        """Called exactly once and last: the way it ended, or what went wrong instead."""


class Job:
    """A submitted request. ``frames`` counts what its sink was given."""

    def __init__(self, request: FrameRequest, sink: FrameSink, wake: Callable[[], None]) -> None:
        # None from admission on, or from its end: a prompt may be megabytes on the device.
        self.request: FrameRequest | None = request
        self.deadline = request.deadline
        self.sink = sink
        self.slot: int | None = None
        self.frames = 0
        self.cancelled = False
        self.paused = False
        self.ended = False
        self._wake = wake

    def cancel(self) -> None:
        """Give it up; from any thread, at any time. Its slot is free within two frames."""
        self.cancelled = True
        self._wake()
