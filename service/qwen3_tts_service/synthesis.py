"""The way of one request: waiting room, engine, tempo, encoder. The only module that joins the stages.

As many requests are spoken at a time as the engine sustains; ``admission.py`` says who is next. Whoever waits or
speaks is asked all the time whether the client is still there and whether the deadline has passed. Sound leaves
as it is made: a :class:`Speech` is an iterator of bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .admission import NO_KEY, Limits, Place, WaitingRoom
from .audio import encoders, pcm
from .audio.tempo import Tempo
from .errors import Cancelled, DeadlineExceeded, DeviceFault
from .narration import Engine, Narration
from .speech.formats import Output
from .speech.request import CloneReference, SpeechRequest, VoicePrompt

#: What a voice has to be able to speak before it is kept.
_TRIAL_TEXT = "Hello."

#: How a request ended: by the model itself, at its longest length, given up by its client, out of time, failed.
Finish = Literal["stop", "length", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class Load:
    """One moment of the waiting room. ``streams``: how many of the engine's slots may be used at a time."""

    slots: int
    streams: int
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
        place: Place,
        arrived: float,
        deadline: float,
        gone: Callable[[], bool],
    ) -> None:
        self._synthesis = synthesis
        self._place = place
        self._arrived = arrived
        self._deadline = deadline
        self._samples = self._spoken = 0
        #: Where the parts of the text begin in the sound, in seconds at the wanted speed, as far as they are made.
        self.part_starts: list[float] = []
        #: Bytes of the answer so far.
        self.encoded_bytes = 0
        #: How it ended; None while it has not.
        self.finish: Finish | None = None
        #: Seconds in the queue, from the request's arrival to its first sound, and of waiting for the engine.
        self.queue_s = place.began - arrived
        self.first_audio_s: float | None = None
        self.compute_s = 0.0
        with self._engine_works():
            rate = synthesis.engine.sample_rate
            self._tempo = Tempo(output.speed, rate)
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
        self.encoded_bytes += len(content)
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
        while len(self.part_starts) <= self.part:
            self.part_starts.append(self.spoken_s / self._tempo.speed)
        self._spoken += len(samples)
        return self._taken(self._tempo.feed(samples))

    def _rest(self) -> bytes:
        """What leaves after the last samples."""
        return self._taken(self._tempo.finish()) + self._encoder.finish()

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
            raise self._synthesis.room.too_late() from None
        except Cancelled:
            if time.monotonic() > self._deadline:
                self._end("deadline")
                raise self._synthesis.room.too_late() from None
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
        self._place.leave()


def _at_most(longest: int, pieces: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """The pieces in parts of at most ``longest`` samples, so that no part of an answer is large."""
    for piece in pieces:
        for start in range(0, len(piece), longest):
            yield piece[start : start + longest]


class Synthesis:
    """An engine behind its waiting room. ``on_fault`` hears of a device that is lost.

    ``streams`` of the engine's slots may be used at a time.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        limits: Limits,
        streams: int,
        on_fault: Callable[[DeviceFault], None] = lambda error: None,
    ) -> None:
        self.engine = engine
        self.on_fault = on_fault
        self.room = WaitingRoom(streams, limits)

    def speak(
        self,
        request: SpeechRequest,
        *,
        output: Output,
        timeout_s: float,
        client: str = NO_KEY,
        gone: Callable[[], bool] = lambda: False,
    ) -> Speech:
        """Wait for a place and begin to speak. Blocks; the caller closes what it gets.

        ``client`` is whose turn this is, ``gone`` says that nobody reads the result any more. Raises InvalidRequest
        before queueing, QueueFull, WaitedTooLong, Draining, DeadlineExceeded after ``timeout_s`` seconds (as does
        the speech itself), Cancelled, and EngineError.
        """
        arrived = time.monotonic()
        deadline = arrived + timeout_s
        # Who is refused costs nothing: the engine may be in another process, and is busy then.
        self.room.refuse_if_full(client)
        self.engine.check(request)
        place = self.room.enter(client, deadline=deadline, gone=gone)
        return Speech(
            self, request, output=output, place=place, arrived=arrived, deadline=deadline, gone=gone
        )

    def listen(
        self,
        recording: CloneReference,
        *,
        timeout_s: float,
        client: str = NO_KEY,
        gone: Callable[[], bool] = lambda: False,
    ) -> VoicePrompt:
        """Wait for a place and take the voice from ``recording``, so that many requests can use it. Blocks.

        The voice can speak: one whose text is too long for the model is refused. Raises as :meth:`speak`.
        """
        place = self.room.enter(client, deadline=time.monotonic() + timeout_s, gone=gone)
        try:
            voice = self.engine.encode_reference(recording)
            self.engine.check(SpeechRequest(_TRIAL_TEXT, clone=voice))
            return voice
        except DeviceFault as error:
            self.on_fault(error)
            raise
        finally:
            place.leave()

    @property
    def load(self) -> Load:
        """How many speak and wait."""
        streams, speaking, waiting = self.room.load
        return Load(self.engine.slots, streams, speaking, waiting)
