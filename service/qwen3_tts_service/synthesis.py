"""The way of one request: queue, engine, tempo, encoder. The only module that joins the stages.

As many requests are spoken at a time as the engine has slots. The queue in front is bounded and first come,
first served; whoever waits or speaks is asked all the time whether the client is still there and whether the
deadline has passed. Sound leaves as it is made: a :class:`Speech` is an iterator of bytes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .audio import encoders, pcm
from .audio.tempo import Tempo
from .errors import Cancelled, DeadlineExceeded, DeviceFault, Draining, QueueFull
from .narration import Engine, Narration
from .speech.formats import Output
from .speech.request import CloneReference, SpeechRequest, VoicePrompt

#: How often a waiting request looks at its client and its deadline (seconds).
_LOOK_S = 0.05
#: What a voice has to be able to speak before it is kept.
_TRIAL_TEXT = "Hello."
#: Weight of the newest request in the running mean of durations.
_NEWEST = 0.3

#: How a request ended: by the model itself, at its longest length, given up by its client, out of time, failed.
Finish = Literal["stop", "length", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class Load:
    """One moment of the queue."""

    slots: int
    speaking: int
    waiting: int


class Speech:
    """A request that is being spoken. Iterate for its bytes, and :meth:`close` whatever happens.

    No piece is empty; an ``output`` that is whole is one piece. Iterating raises DeadlineExceeded, Cancelled
    and EngineError; after that, as after the last piece, the slot is free.
    """

    def __init__(
        self,
        synthesis: Synthesis,
        request: SpeechRequest,
        *,
        output: Output,
        arrived: float,
        deadline: float,
        gone: Callable[[], bool],
    ) -> None:
        self._synthesis = synthesis
        self._arrived = arrived
        self._deadline = deadline
        self._started = time.monotonic()
        self._samples = self._spoken = 0
        #: How it ended; None while it has not.
        self.finish: Finish | None = None
        #: Seconds in the queue, from the request's arrival to its first sound, and of waiting for the engine.
        self.queue_s = self._started - arrived
        self.first_audio_s: float | None = None
        self.compute_s = 0.0
        with self._engine_works():
            rate = synthesis.engine.sample_rate
            self._tempo = Tempo(output.speed, rate) if output.speed != 1 else None
            self._encoder = encoders.encoder(
                output.audio_format, rate, whole=output.whole, marked=output.marked
            )
            self._narration = Narration(synthesis.engine, request, deadline=deadline, cancelled=gone)
            self._waveform = _at_most(rate, self._narration.waveform)

    @property
    def audio_s(self) -> float:
        """Seconds of sound so far, at the wanted speed."""
        return self._samples / self._synthesis.engine.sample_rate

    @property
    def spoken_s(self) -> float:
        """Seconds of sound so far, at the voice's own speed."""
        return self._spoken / self._synthesis.engine.sample_rate

    @property
    def text_tokens(self) -> int:
        """Tokens of the text that was begun so far."""
        return self._narration.text_tokens

    @property
    def part(self) -> int:
        """Which part of the text is heard, from 0."""
        return self._narration.part

    def __iter__(self) -> Speech:
        return self

    def __next__(self) -> bytes:
        content = b""
        while not content and self.finish is None:
            with self._engine_works():
                waveform = next(self._waveform, None)
                content = self._rest() if waveform is None else self._encoded(pcm.samples(waveform))
            if waveform is None:
                self._end("length" if self._narration.finish == "length" else "stop")
        if not content:
            raise StopIteration
        if self.first_audio_s is None and self._samples:
            self.first_audio_s = time.monotonic() - self._arrived
        return content

    def cancel(self) -> None:
        """Nobody reads it any more. Never blocks; may be called from any thread, at any time."""
        self._narration.cancel()

    def close(self) -> None:
        """Free the slot; what is not spoken yet is given up."""
        if self.finish is None:
            self._narration.cancel()
            self._end("cancelled")

    def _encoded(self, samples: pcm.Samples) -> bytes:
        """What can leave after the next samples."""
        self._spoken += len(samples)
        return self._taken(samples if self._tempo is None else self._tempo.feed(samples))

    def _rest(self) -> bytes:
        """What leaves after the last samples."""
        rest = b"" if self._tempo is None else self._taken(self._tempo.finish())
        return rest + self._encoder.finish()

    def _taken(self, samples: pcm.Samples) -> bytes:
        self._samples += len(samples)
        return self._encoder.feed(samples) if len(samples) else b""

    @contextmanager
    def _engine_works(self) -> Iterator[None]:
        """Counts the time; whatever is raised ends the request."""
        began = time.monotonic()
        try:
            yield
        except DeadlineExceeded:
            self._end("deadline")
            raise self._synthesis.too_late() from None
        except Cancelled:
            if time.monotonic() > self._deadline:
                self._end("deadline")
                raise self._synthesis.too_late() from None
            self._end("cancelled")
            raise
        except BaseException as error:
            self._end("error")
            if isinstance(error, DeviceFault):
                self._synthesis.on_fault(error)
            raise
        finally:
            self.compute_s += time.monotonic() - began

    def _end(self, finish: Finish) -> None:
        self.finish = finish
        self._synthesis.leave(time.monotonic() - self._started)


def _at_most(longest: int, pieces: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """The pieces in parts of at most ``longest`` samples, so that no part of an answer is large."""
    for piece in pieces:
        for start in range(0, len(piece), longest):
            yield piece[start : start + longest]


class Synthesis:
    """The bounded queue and what stands behind it. ``on_fault`` hears of a device that is lost."""

    def __init__(
        self, engine: Engine, *, queue_size: int, on_fault: Callable[[DeviceFault], None] = lambda error: None
    ) -> None:
        self.engine = engine
        self.on_fault = on_fault
        self._queue_size = queue_size
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._speaking = 0
        self._closed = False
        self._mean_s = 1.0

    def speak(
        self,
        request: SpeechRequest,
        *,
        output: Output,
        timeout_s: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> Speech:
        """Wait for a slot and begin to speak. Blocks; the caller closes what it gets.

        ``gone`` says that nobody reads the result any more. Raises InvalidRequest before queueing, QueueFull,
        Draining, DeadlineExceeded after ``timeout_s`` seconds (as does the speech itself), Cancelled, and
        EngineError.
        """
        self.engine.check(request)
        arrived = time.monotonic()
        deadline = arrived + timeout_s
        self._wait_for_a_slot(deadline, gone)
        return Speech(self, request, output=output, arrived=arrived, deadline=deadline, gone=gone)

    def listen(
        self, recording: CloneReference, *, timeout_s: float, gone: Callable[[], bool] = lambda: False
    ) -> VoicePrompt:
        """Wait for a slot and take the voice from ``recording``, so that many requests can use it. Blocks.

        The voice can speak: one whose text is too long for the model is refused. Raises as :meth:`speak`.
        """
        self._wait_for_a_slot(time.monotonic() + timeout_s, gone)
        began = time.monotonic()
        try:
            voice = self.engine.encode_reference(recording)
            self.engine.check(SpeechRequest(_TRIAL_TEXT, clone=voice))
            return voice
        except DeviceFault as error:
            self.on_fault(error)
            raise
        finally:
            self.leave(time.monotonic() - began)

    def _wait_for_a_slot(self, deadline: float, gone: Callable[[], bool]) -> None:
        ticket = object()
        with self._changed:
            if self._closed:
                raise Draining("the service is going down and takes no new work", retry_after_s=5.0)
            # Counted with those that speak: when one has ended and the next has not woken up, a slot is free
            # and the queue must not grow by it.
            if self._speaking + len(self._waiting) >= self.engine.slots + self._queue_size:
                raise QueueFull(
                    f"{len(self._waiting)} requests are waiting and {self._queue_size} may: try again later",
                    retry_after_s=self._retry_after_s(0),
                )
            self._waiting.append(ticket)
            try:
                while self._speaking >= self.engine.slots or self._waiting[0] is not ticket:
                    self._changed.wait(_LOOK_S)
                    if gone():
                        raise Cancelled("the client went away while its request waited")
                    if time.monotonic() > deadline:
                        raise self.too_late()
                self._speaking += 1
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def leave(self, held_s: float) -> None:
        """A speech has ended after ``held_s`` seconds: its slot is free."""
        with self._changed:
            self._speaking -= 1
            self._mean_s += _NEWEST * (held_s - self._mean_s)
            self._changed.notify_all()

    def _retry_after_s(self, ahead: int) -> float:
        """Until a slot is free and ``ahead`` requests had theirs, by the measured mean."""
        return max(1.0, self._mean_s * (1 + ahead) / self.engine.slots)

    def too_late(self) -> DeadlineExceeded:
        """The error of a request that ran out of time."""
        return DeadlineExceeded(
            "the request was not finished within its time: shorten the text, or try again when less is going on",
            retry_after_s=self._retry_after_s(len(self._waiting)),
        )

    @property
    def load(self) -> Load:
        """How many speak and wait."""
        with self._changed:
            return Load(self.engine.slots, self._speaking, len(self._waiting))

    def close_when_idle(self) -> bool:
        """Take no new requests, when none waits or speaks; says whether that was so."""
        with self._changed:
            self._closed = self._closed or not (self._speaking or self._waiting)
            return self._closed

    def close(self) -> None:
        """Take no new requests; those that wait or speak are finished."""
        with self._changed:
            self._closed = True

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until nothing waits or speaks; false when ``timeout_s`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._speaking or self._waiting), timeout_s)
