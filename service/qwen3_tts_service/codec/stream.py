"""One utterance's way through the codec: frames are put down, sound comes back by callback."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import TTSError
from .chunking import Progress

if TYPE_CHECKING:
    from .worker import CodecWorker

logger = logging.getLogger(__name__)

Codes = npt.NDArray[np.int32]
#: [frames, 16]: the frames of a recording that a stream continues.
Context = npt.NDArray[np.int64]
Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decode:
    """One stretch of a stream's timeline: ``time.monotonic()`` seconds, its frames, streams in the batch."""

    started: float
    ended: float
    frames: int
    batch: int


class CodecStream:
    """One utterance's way through the codec. Methods may be called from any thread and never block."""

    def __init__(
        self,
        worker: CodecWorker,
        on_audio: Callable[[Waveform], None],
        on_end: Callable[[TTSError | None], None],
        context: Context | None,
    ) -> None:
        self.progress = Progress(since=time.monotonic())
        self.context = context
        #: Every decode of this stream so far, oldest first.
        self.decodes: list[Decode] = []
        self._worker = worker
        self._on_audio = on_audio
        self._on_end = on_end
        # Made on the codec thread, by the first decode.
        self._state: Any = None
        # The rest is guarded by the worker's lock, as progress is.
        self._codes: deque[Codes] = deque()
        self._in_decode = 0
        self._silent = False
        self._open = True

    def push(self, codes: Codes) -> None:
        """Take one frame, codes [16]. Frames after :meth:`finish`, :meth:`cancel` or the end are dropped."""
        with self._worker._changed:
            if self._open and not self.progress.finished:
                self._codes.append(codes)
                self.progress.arrive()
                self._worker._look_at(self)

    def finish(self) -> None:
        """No more frames come: decode the rest, then call ``on_end(None)``."""
        with self._worker._changed:
            self.progress.finished = True
            self._worker._look_at(self)

    def cancel(self) -> None:
        """Forget the stream: only a decode that is under way may still call ``on_audio``."""
        with self._worker._changed:
            self._close()

    @property
    def backlog(self) -> int:
        """Frames pushed and not decoded yet."""
        return self.progress.waiting + (0 if self._silent else self._in_decode)

    def _close(self) -> bool:
        """Whether it was open until now. Under the worker's lock."""
        was_open, self._open = self._open, False
        self._codes.clear()
        self.progress.waiting = self.progress.context = 0
        self._worker._streams.pop(self, None)
        return was_open

    def _tell_end(self, error: TTSError | None) -> None:
        try:
            self._on_end(error)
        except Exception:
            # The other streams need this thread.
            logger.exception("the receiver of a stream's end failed")

    def _take(self, frames: int) -> Codes:
        """Codes [16, frames] for the next decode. Under the worker's lock."""
        self._in_decode = frames
        before = self.progress.context
        self._silent = self.progress.take(frames)
        if self._silent:
            assert self.context is not None
            start = len(self.context) - before
            return self.context[start : start + frames].T.astype(np.int32)
        return np.stack([self._codes.popleft() for _ in range(frames)], axis=1)
