"""Frames of many streams become sound here, on a thread of their own, while the engine makes the next ones.

Nobody waits for the codec but the listener: :meth:`.stream.CodecStream.push` only puts a frame down. Which
frames are decoded next, and together with whose, is the rule of :mod:`.chunking`.

Every shape is run on the codec's thread before the first stream: what a decoder sets up it may set up for the
thread and its count of torch threads (see :mod:`.threads`), and the rule wants each shape's seconds.

On the CPU a decode is a turn (:mod:`..cores`). Its place in the queue is taken when its last frame is put down,
so that it comes before the engine's next frame.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ..cores import Turn, cores
from ..errors import DeviceFault, Draining, EngineError, TTSError, is_device_lost
from . import chunking
from .chunking import Chunk, Shape
from .contexts import HeardContexts
from .stream import CodecStream, Codes, Context, Decode, Waveform
from .threads import own_thread_count

logger = logging.getLogger(__name__)

#: Weight of the newest decode in the running mean of a shape's seconds.
_NEWEST = 0.2
#: One frame of 80 ms at 24 kHz.
SAMPLES_A_FRAME = 1920


class Decoder(Protocol):
    """What the worker asks of :class:`.streaming.StreamingDecoder`, always on the codec's thread."""

    @property
    def device(self) -> torch.device: ...

    @property
    def reach(self) -> int:
        """How many frames before the first one that is listened to must be decoded and not only heard."""

    def prepare(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Set up what decodes of (batch, frames) in ``shapes`` need."""

    def new_state(self, batch: int = 1) -> Any:
        """The state of a stream before its first frame."""

    def decode(self, codes: torch.Tensor, states: Any) -> torch.Tensor:
        """Decode ``codes`` [batch, 16, frames] to [batch, frames * 1920], one state a row.

        A call for several streams that raises leaves their states as they were.
        """

    def hear(self, codes: torch.Tensor, states: Any) -> None:
        """Move the states on as :meth:`decode` does, without sound."""


@dataclass(frozen=True)
class CodecStats:
    """What the worker did since it started."""

    #: Streams that are open, and frames of theirs that wait or are being decoded.
    streams: int
    backlog: int
    #: Frames decoded, padding not counted.
    frames: int
    #: Decodes by shape, and the running mean of their seconds.
    decodes: dict[Shape, int]
    seconds: dict[Shape, float]
    #: Share of the time that was spent decoding, from 0 to 1.
    busy: float


class CodecWorker:
    """Decodes the frames of all streams on one thread, with ``threads`` torch threads (0: torch's own choice).

    ``shapes`` are all sizes that the decoder is ever called with (default: by the decoder's device).
    ``on_device_fault`` is called once, on the codec's thread, when the device is lost and every stream has been
    told.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        threads: int = 0,
        shapes: Sequence[Shape] | None = None,
        on_device_fault: Callable[[DeviceFault], None] = lambda error: None,
    ) -> None:
        if shapes is None:
            shapes = chunking.CPU_SHAPES if decoder.device.type == "cpu" else chunking.GPU_SHAPES
        chunking.check(shapes)
        self.shapes = tuple(shapes)
        self._sizes = sorted({shape.frames for shape in shapes})
        self._decoder = decoder
        self._threads = threads
        self._on_device_fault = on_device_fault
        self._changed = threading.Condition()
        # In the order of their opening.
        self._streams: dict[CodecStream, None] = {}
        self._heard = HeardContexts()
        # Of the next decode, while it waits for this thread; None on a GPU.
        self._turn: Turn | None = None
        self._ended: TTSError | None = None
        self._seconds: dict[Shape, float] = {}
        self._decodes = dict.fromkeys(self.shapes, 0)
        self._frames = 0
        self._busy_s = 0.0
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="codec", daemon=True)
        self._warm: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread and run every shape on it.

        Takes seconds, or minutes where something is compiled. Raises EngineError when a shape does not run.
        """
        self._thread.start()
        error = self._warm.get()
        self._since = time.monotonic()
        # This thread has loaded the decoder.
        cores.give_up_team()
        if error is not None:
            self.stop()
            raise _failure(error) from error
        logger.info(
            "codec ready on %s, torch threads: %s; %s",
            self._decoder.device,
            self._threads or "torch's choice",
            ", ".join(f"{s.batch}x{s.frames} {1000 * self._seconds[s]:.0f} ms" for s in self.shapes),
        )

    def stop(self, timeout_s: float = 10.0) -> bool:
        """End the thread, and the streams that are open with Draining. False: the thread did not come back."""
        with self._changed:
            self._ended = self._ended or Draining("the codec is going down", retry_after_s=5.0)
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._end_all(self._ended)
        return not self._thread.is_alive()

    def open(
        self,
        on_audio: Callable[[Waveform], None],
        on_end: Callable[[TTSError | None], None],
        *,
        context: Context | None = None,
    ) -> CodecStream:
        """A new stream. Both callbacks run on the codec's thread and must not block.

        ``context`` [frames, 16] are frames that it continues: the decoder hears them first, at once, and their
        sound is dropped. What the decoder knows after them is kept for as long as that array lives, so a voice
        that speaks again costs nothing.

        ``on_audio`` gets float32 [frames * 1920], in order; ``on_end`` comes last and once: None after
        :meth:`CodecStream.finish`, an error when this stream or the device failed, never after
        :meth:`CodecStream.cancel`. Raises Draining after :meth:`stop` and DeviceFault after one.
        """
        stream = CodecStream(self, on_audio, on_end, context)
        with self._changed:
            if self._ended is not None:
                raise self._ended
            if context is not None and not self._heard.knows(context):
                stream.progress.context, stream.progress.reach = len(context), self._decoder.reach
            self._streams[stream] = None
            self._look_at(stream)
        return stream

    def stats(self) -> CodecStats:
        """What was done since :meth:`start`."""
        with self._changed:
            elapsed = time.monotonic() - self._since
            return CodecStats(
                streams=len(self._streams),
                backlog=sum(stream.backlog for stream in self._streams),
                frames=self._frames,
                decodes=dict(self._decodes),
                seconds=dict(self._seconds),
                busy=min(1.0, self._busy_s / elapsed) if elapsed else 0.0,
            )

    def _run(self) -> None:
        own_thread_count(self._threads)
        with _own_gpu_queue(self._decoder.device):
            try:
                self._warm_up()
            except Exception as error:
                logger.exception("the codec does not run")
                self._warm.put(error)
                return
            self._warm.put(None)
            while self._step():
                pass

    def _warm_up(self) -> None:
        self._decoder.prepare(self.shapes)
        for shape in self.shapes:
            codes = np.zeros((16, shape.frames), np.int32)
            # What is set up at first use, such as scratch memory and thread pools, is not in the last run.
            states = [self._decoder.new_state() for _ in range(shape.batch)]
            for _ in range(3):
                with self._take_turn():
                    started = time.monotonic()
                    self._sound(shape, [codes] * shape.batch, states)
                    self._seconds[shape] = time.monotonic() - started

    def _look_at(self, stream: CodecStream) -> None:
        """Something came for ``stream``: wake the thread. Under the lock, on any thread."""
        self._changed.notify()
        # Where the engine waits for the cores too, the place in the queue is taken at once: the thread that
        # puts this frame down asks for the next one long before the codec's has woken up.
        if (
            cores.shared
            and self._turn is None
            and self._ended is None
            and self._decoder.device.type == "cpu"
            and stream.progress.chunk(self._sizes, time.monotonic())
        ):
            self._turn = cores.turn()

    def _take_turn(self) -> Turn | contextlib.nullcontext[None]:
        """The turn to decode in. Under the lock, or before there is a stream."""
        if self._decoder.device.type != "cpu":
            return contextlib.nullcontext()
        turn, self._turn = self._turn or cores.turn(), None
        return turn

    def _next(self) -> Chunk[CodecStream] | None:
        return chunking.choose(self._streams, self.shapes, self._seconds, time.monotonic())

    def _step(self) -> bool:
        """Wait for one thing to do and do it; false when the worker has ended."""
        with self._changed:
            while True:
                if self._ended is not None:
                    self._cancel_turn()
                    return False
                over = next(
                    (s for s in self._streams if s.progress.finished and not s.progress.waiting), None
                )
                if over is not None:
                    over._close()
                    break
                if self._next() is not None:
                    turn = self._take_turn()
                    break
                # It was for frames that are not wanted any more.
                self._cancel_turn()
                look = chunking.next_look(self._streams)
                self._changed.wait(None if look is None else max(0.0, look - time.monotonic()))
        if over is not None:
            over._tell_end(None)
        else:
            self._decode_next(turn)
        return True

    def _cancel_turn(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _decode_next(self, turn: Turn | contextlib.nullcontext[None]) -> None:
        with turn:
            with self._changed:
                # Chosen now: while it waited for its turn, frames came or were given up.
                chunk = self._next()
                if chunk is None:
                    return
                codes = [stream._take(chunk.shape.frames) for stream in chunk.streams]
            started = time.monotonic()
            results = self._results(chunk, codes)
            ended = time.monotonic()
        if results is None:
            return
        for stream, result in zip(chunk.streams, results, strict=True):
            stream.decodes.append(Decode(started, ended, chunk.shape.frames, len(chunk.streams)))
            self._deliver(stream, result)
        with self._changed:
            self._busy_s += ended - started
            self._decodes[chunk.shape] += 1
            self._seconds[chunk.shape] += _NEWEST * (ended - started - self._seconds[chunk.shape])
            for stream in chunk.streams:
                self._frames += chunk.shape.frames
                stream._in_decode = 0

    def _results(self, chunk: Chunk[CodecStream], codes: list[Codes]) -> list[Waveform | Exception] | None:
        """What each stream of the chunk gets; None when the device is lost."""
        for stream in chunk.streams:
            if stream._state is None:
                stream._state = self._state_of(stream)
        try:
            states = [stream._state for stream in chunk.streams]
            return [*self._sound(chunk.shape, codes, states, hears=chunk.hears)]
        except Exception as error:
            if is_device_lost(error):
                self._lose_device(error)
                return None
            logger.exception("a decode of %d streams failed", len(chunk.streams))
            return [error] if len(chunk.streams) == 1 else self._one_by_one(chunk, codes)

    def _state_of(self, stream: CodecStream) -> Any:
        """A fresh state, or what the decoder knew when it had heard the same context before."""
        known = None if stream.context is None or stream._silent else self._heard.state(stream.context)
        return self._decoder.new_state() if known is None else known

    def _one_by_one(self, chunk: Chunk[CodecStream], codes: list[Codes]) -> list[Waveform | Exception]:
        """Find whose frames made the batch fail; the same shape, so that nothing is compiled for it."""
        results: list[Waveform | Exception] = []
        for stream, mine in zip(chunk.streams, codes, strict=True):
            try:
                results += self._sound(chunk.shape, [mine], [stream._state], hears=chunk.hears)
            except Exception as error:
                logger.exception("this stream's frames cannot be decoded")
                results.append(error)
        return results

    def _sound(
        self, shape: Shape, codes: list[Codes], states: list[Any], *, hears: bool = False
    ) -> list[Waveform]:
        """Decode in exactly ``shape``: rows that are missing are padding. Empty sound when it only ``hears``."""
        padding = shape.batch - len(codes)
        batch = np.stack([*codes, *[np.zeros_like(codes[0])] * padding])
        states = [*states, *(self._decoder.new_state() for _ in range(padding))]
        frames = torch.from_numpy(batch).long()
        if hears:
            self._decoder.hear(frames, states)
            return [np.zeros(0, np.float32)] * len(codes)
        waveform = self._decoder.decode(frames, states)
        sound = waveform.float().cpu().numpy()
        if sound.shape != (shape.batch, shape.frames * SAMPLES_A_FRAME):
            raise EngineError(
                f"the codec made {sound.shape} samples of {shape.frames} frames in a batch of {shape.batch}: "
                f"a frame is {SAMPLES_A_FRAME}"
            )
        # Copies: the rows of a batch go to different readers, and a compiled decoder may reuse its output.
        return [row.copy() for row in sound[: len(codes)]]

    def _deliver(self, stream: CodecStream, result: Waveform | Exception) -> None:
        """Hand sound on, or end the stream."""
        if not isinstance(result, Exception):
            if not np.isfinite(result).all():
                result = EngineError("the codec computed something that is no sound: NaN or infinity")
            elif stream._silent:
                if not stream.progress.context and stream.context is not None:
                    self._heard.keep(stream.context, stream._state)
            elif stream._open:
                try:
                    stream._on_audio(result)
                except Exception as error:
                    logger.exception("the receiver of a stream's sound failed")
                    result = error
        with self._changed:
            if isinstance(result, Exception):
                if not stream._close():
                    return
            else:
                if not stream._silent:
                    stream.progress.advance(len(result) // SAMPLES_A_FRAME, time.monotonic())
                return
        stream._tell_end(_failure(result))

    def _lose_device(self, error: Exception) -> None:
        fault = _failure(error)
        logger.error("the codec's device is lost: %s", error)
        with self._changed:
            self._ended = fault
            self._changed.notify_all()
        self._end_all(fault)
        if isinstance(fault, DeviceFault):
            self._on_device_fault(fault)

    def _end_all(self, error: TTSError) -> None:
        with self._changed:
            ended = [stream for stream in list(self._streams) if stream._close()]
        for stream in ended:
            stream._tell_end(error)


@contextlib.contextmanager
def _own_gpu_queue(device: torch.device) -> Iterator[None]:
    """On a GPU the codec has a stream of its own: on the common one it would wait for the engine's frames."""
    if device.type == "cuda":
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
            yield
    else:
        yield


def _failure(error: Exception) -> TTSError:
    if isinstance(error, TTSError):
        return error
    kind = DeviceFault if is_device_lost(error) else EngineError
    return kind(f"the codec failed: {error}")
