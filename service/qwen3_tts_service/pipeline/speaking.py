"""One request under way: frames come in from the engine, go to the codec, and their sound to a listener.

Two threads meet here, and neither waits: the engine's puts frames in, a codec thread hands sound on. When the
listener, or the codec, lags behind, the engine is told to hold this request, and nobody else notices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..codec.stream import CodecStream, Decode
from ..codec.worker import CodecWorker
from ..engine.jobs import Job
from ..errors import Cancelled, TTSError
from ..speech.listening import Finish, Listener, Reader, Waveform, out_of_time


@dataclass
class Timeline:
    """When what happened to a request, in seconds of ``time.monotonic``; None: not yet, or never."""

    opened: float = field(default_factory=time.monotonic)
    #: The prompt was ready and the request in the engine's queue.
    queued: float | None = None
    #: The prompt was read, the first frame could begin.
    admitted: float | None = None
    first_audio: float | None = None
    last_audio: float | None = None
    #: When each frame was made.
    frames: list[float] = field(default_factory=list)
    #: What the codec did for it, oldest first.
    decodes: Sequence[Decode] = ()

    @property
    def last_frame(self) -> float | None:
        """When the newest frame was made."""
        return self.frames[-1] if self.frames else None

    @property
    def talk_s(self) -> float:
        """Seconds in which frames were made, with the codec's turns where both take turns on the same cores."""
        if self.admitted is None or self.last_frame is None:
            return 0.0
        return self.last_frame - self.admitted

    @property
    def decode_s(self) -> float:
        """Seconds that the codec computed."""
        return sum(decode.ended - decode.started for decode in self.decodes)

    @property
    def overlap_s(self) -> float:
        """Seconds in which the codec computed before the last frame was made."""
        if self.last_frame is None:
            return 0.0
        return sum(max(0.0, min(d.ended, self.last_frame) - d.started) for d in self.decodes)


class Speaking:
    """A request between engine and codec on one side and its listener on the other. Nothing here blocks.

    ``context`` are frames that the speech continues. ``ahead`` is how many frames the engine may be ahead of the
    listener, ``text_tokens`` the text's length.
    """

    def __init__(
        self,
        codec: CodecWorker,
        listener: Listener,
        *,
        context: npt.NDArray[np.int64] | None,
        ahead: int,
        text_tokens: int,
    ) -> None:
        self.text_tokens = text_tokens
        self.timeline = Timeline()
        self._listener = listener
        self._ahead = ahead
        # Held while the listener is told, so that nothing is heard after the end.
        self._lock = threading.Lock()
        self._reason: Finish | None = None
        self._over = False
        self._job: Job | None = None
        # The codec begins with the context at once, and might fail before there is a stream here.
        with self._lock:
            self._stream: CodecStream = codec.open(self._hear, self._end, context=context)
        self.timeline.decodes = self._stream.decodes

    @property
    def frames(self) -> int:
        """Frames that the engine has made."""
        return len(self.timeline.frames)

    def cancel(self) -> None:
        """Give up, from any thread; its slot is free within two frames."""
        self._end(Cancelled("the request was given up while it was spoken"), "cancelled")

    def submitted(self, job: Job) -> None:
        """The engine has taken it."""
        with self._lock:
            self._job = job
            over = self._over
        if over:
            job.cancel()

    # What the engine calls, on its thread.

    def frame(self, codes: npt.NDArray[np.int32]) -> None:
        """Take the codes [16] of the next frame."""
        self.timeline.frames.append(time.monotonic())
        self._stream.push(codes)

    def full(self) -> bool:
        """Whether the listener lags, be it that it does not read or that the codec has nothing for it."""
        self.timeline.admitted = self.timeline.admitted or time.monotonic()
        if self._listener.gone():
            self.cancel()
        return self.frames - self._listener.taken >= self._ahead

    def finished(self, reason: Finish | None, error: TTSError | None) -> None:
        """No more frames: the rest is decoded, or everything ends here."""
        if error is not None:
            self._end(error)
        elif reason == "cancelled":
            self.cancel()
        elif reason == "deadline":
            self._end(out_of_time(self.frames), "deadline")
        else:
            self._reason = reason
            self._stream.finish()

    # What the codec calls, on its thread.

    def _hear(self, chunk: Waveform) -> None:
        with self._lock:
            if self._over:
                return
            now = time.monotonic()
            self.timeline.first_audio = self.timeline.first_audio or now
            self.timeline.last_audio = now
            self._listener.hear(chunk)

    def _end(self, error: TTSError | None, reason: Finish | None = None) -> None:
        """The end, once: whatever comes later changes nothing."""
        with self._lock:
            if self._over:
                return
            self._over = True
            job = self._job
            self._listener.end(self._reason if error is None else reason, error)
        if error is not None:
            self._stream.cancel()
            if job is not None:
                job.cancel()


class Utterance(Reader):
    """What :meth:`.streaming.StreamingEngine.open` gives a thread of the same process to iterate over."""

    _speaker: Speaking

    @property
    def frames(self) -> int:
        """Frames that the engine has made."""
        return self._speaker.frames

    @property
    def timeline(self) -> Timeline:
        """When what happened."""
        return self._speaker.timeline
