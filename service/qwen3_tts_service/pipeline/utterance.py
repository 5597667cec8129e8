"""One request under way: frames come in from the engine, sound goes to the codec and out to a reader.

Three threads meet here: the engine's puts frames in, a codec thread puts sound in, the reader takes it out.
Only the reader waits. When it, or the codec, lags behind, the engine is told to hold this request, and nobody
else notices.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..codec.stream import CodecStream, Decode
from ..codec.worker import CodecWorker
from ..engine.jobs import Finish, Job
from ..errors import Cancelled, DeadlineExceeded, TTSError
from ..speech.request import SAMPLES_A_FRAME

#: How often a reader that waits looks at its client and its deadline (seconds).
_LOOK_S = 0.05

Waveform = npt.NDArray[np.float32]


@dataclass
class Timeline:
    """When what happened to a request, in seconds of ``time.monotonic``; None: not yet, or never."""

    opened: float = field(default_factory=time.monotonic)
    #: The prompt was ready and the request in the engine's queue.
    queued: float | None = None
    #: The prompt was read, the first frame could begin.
    admitted: float | None = None
    first_frame: float | None = None
    last_frame: float | None = None
    first_audio: float | None = None
    last_audio: float | None = None
    #: What the codec did for it, oldest first.
    decodes: Sequence[Decode] = ()

    @property
    def talk_s(self) -> float:
        """Seconds in which frames were made."""
        if self.admitted is None or self.last_frame is None:
            return 0.0
        return self.last_frame - self.admitted

    @property
    def decode_s(self) -> float:
        """Seconds that the codec computed."""
        return sum(decode.ended - decode.started for decode in self.decodes)

    @property
    def overlap_s(self) -> float:
        """Seconds in which the codec computed while frames were made."""
        if self.last_frame is None:
            return 0.0
        return sum(max(0.0, min(d.ended, self.last_frame) - d.started) for d in self.decodes)


class Utterance:
    """Iterate for the sound: float32 waveforms in [-1, 1], in order, as they are made.

    Iterating blocks. It raises, once, what ended the request before its end: Cancelled, DeadlineExceeded, or
    the EngineError of engine or codec; sound that has not been taken is dropped then. One thread iterates,
    everything else may be used from any.

    ``context`` are frames that the speech continues. ``frames`` counts what the engine has made, ``ahead`` is
    how many it may be ahead of the reader.
    """

    def __init__(
        self,
        codec: CodecWorker,
        *,
        context: npt.NDArray[np.int64] | None,
        deadline: float,
        cancelled: Callable[[], bool],
        ahead: int,
    ) -> None:
        self.frames = 0
        self.timeline = Timeline()
        self._deadline = deadline
        self._is_cancelled = cancelled
        self._ahead = ahead
        self._changed = threading.Condition()
        self._chunks: deque[Waveform] = deque()
        self._taken = 0
        self._reason: Finish | None = None
        self._error: TTSError | None = None
        self._over = False
        self._job: Job | None = None
        # The codec begins with the context at once, and might fail before there is a stream here.
        with self._changed:
            self._stream: CodecStream = codec.open(self._hear, self._end, context=context)
        self.timeline.decodes = self._stream.decodes

    @property
    def finish(self) -> Finish | None:
        """How it ended; None before its end, and after an error of engine or codec."""
        return self._reason if self._over else None

    def __iter__(self) -> Utterance:
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
                    return chunk
                if self._over:
                    raise StopIteration
            self._look()

    def cancel(self) -> None:
        """Give up. Never blocks; its slot is free within two frames."""
        self._end(Cancelled("the request was given up while it was spoken"), "cancelled")

    def submitted(self, job: Job) -> None:
        """The engine has taken it."""
        with self._changed:
            self._job = job
            over = self._over
        if over:
            job.cancel()

    # What the engine calls, on its thread.

    def frame(self, codes: npt.NDArray[np.int32]) -> None:
        """Take the codes [16] of the next frame."""
        now = time.monotonic()
        self.timeline.first_frame = self.timeline.first_frame or now
        self.timeline.last_frame = now
        self.frames += 1
        self._stream.push(codes)

    def full(self) -> bool:
        """Whether the reader lags, be it that it does not read or that the codec has nothing for it."""
        self.timeline.admitted = self.timeline.admitted or time.monotonic()
        if self._is_cancelled():
            self.cancel()
        return self.frames - self._taken >= self._ahead

    def finished(self, reason: Finish | None, error: TTSError | None) -> None:
        """No more frames: the rest is decoded, or everything ends here."""
        if error is not None:
            self._end(error)
        elif reason == "cancelled":
            self.cancel()
        elif reason == "deadline":
            self._run_out_of_time()
        else:
            self._reason = reason
            self._stream.finish()

    # What the codec calls, on its thread.

    def _hear(self, chunk: Waveform) -> None:
        with self._changed:
            if self._over:
                return
            now = time.monotonic()
            self.timeline.first_audio = self.timeline.first_audio or now
            self.timeline.last_audio = now
            self._chunks.append(chunk)
            self._changed.notify_all()

    def _end(self, error: TTSError | None, reason: Finish | None = None) -> None:
        """The end, once: whatever comes later changes nothing."""
        with self._changed:
            if self._over:
                return
            self._over = True
            if error is not None:
                self._error, self._reason = error, reason
                self._chunks.clear()
            job = self._job
            self._changed.notify_all()
        if error is not None:
            self._stream.cancel()
            if job is not None:
                job.cancel()

    def _look(self) -> None:
        """What a waiting reader asks itself. Outside the lock: the answers take others."""
        if self._is_cancelled():
            self.cancel()
        elif time.monotonic() >= self._deadline:
            self._run_out_of_time()

    def _run_out_of_time(self) -> None:
        error = DeadlineExceeded(
            f"the request was not finished within its time, {self.frames} frames of 80 ms were spoken",
            retry_after_s=1.0,
        )
        self._end(error, "deadline")
