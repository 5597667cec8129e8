"""Which frames are decoded next: the rule alone, without threads and tensors.

A listener hears a stream from its first sound on, one frame every 80 ms. So at every moment it is known when
each stream *runs dry*: when its listener will have heard all that was decoded. Who runs dry first is served
first, and a stream that nobody has heard yet goes before all others, since its first chunk is one frame.

Small chunks sound early and are dear (the codec's weights are read once a chunk), so a stream's chunks grow:
1, 2, 4, 8, 16 frames. A stream whose listener has enough to hear waits until its next, larger chunk is full;
one that is about to run dry never waits, it takes what is there. One that has run dry takes all that is there at
once: its listener waits anyway, and where the codec is slower than so many listeners, small chunks would make it
slower still.

A decoder may have to be compiled or captured for each shape anew, so chunks come in few shapes (batch, frames).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

#: Seconds of sound in a frame.
FRAME_S = 0.08
#: A stream that has less than this to be heard takes what is there instead of waiting for a full chunk
#: (seconds of sound). More than the largest chunk takes on the slowest host that keeps up, 16 frames on two
#: cores, plus the time to be noticed.
AHEAD_S = 0.5
#: At most this many shapes: each may cost a compilation when a release is staged, and is run at every start.
MOST_SHAPES = 6


class Shape(NamedTuple):
    """The size of one decode: streams side by side, and frames of each."""

    batch: int
    frames: int


#: On a CPU long chunks are as good as wide ones, and a long call keeps fresh streams waiting: only first chunks
#: go together. Measured with one thread of an AMD EPYC, fp32, ms a frame: 1x1 52, 1x2 41, 1x4 34, 1x8 29,
#: 1x16 28, 2x1 44, 4x1 37, 4x4 28, 2x8 27.
CPU_SHAPES = (Shape(1, 1), Shape(1, 2), Shape(1, 4), Shape(1, 8), Shape(1, 16), Shape(4, 1))
#: A GPU is bound by launches and weights up to some 32 frames, of whatever streams, and by arithmetic from 128 on:
#: more at a time gains nothing and keeps fresh streams waiting.
GPU_SHAPES = (Shape(1, 1), Shape(1, 4), Shape(1, 16), Shape(8, 1), Shape(8, 4), Shape(8, 16))


@dataclass
class Progress:
    """How far a stream is: what waits, and what its listener has. Times are ``time.monotonic()`` seconds."""

    #: When it was opened.
    since: float
    #: Frames that came and are not decoded, without those that are being decoded.
    waiting: int = 0
    #: Frames of the recording that it continues, which the decoder must hear first and nobody else will.
    context: int = 0
    #: The last frames of the context that the decoder must make sound of, though nobody hears it.
    reach: int = 0
    decoded: int = 0
    #: Its largest chunk so far; the next may be one size larger.
    largest: int = 0
    #: When its listener will have heard all that was decoded.
    dry_at: float = 0.0
    #: No more frames will come.
    finished: bool = False

    def arrive(self) -> None:
        """One more frame came."""
        self.waiting += 1

    def take(self, frames: int) -> bool:
        """``frames`` are being decoded; whether they are context."""
        if self.context:
            self.context -= frames
            return True
        self.waiting -= frames
        return False

    def advance(self, frames: int, now: float) -> None:
        """``frames`` were decoded and are with the listener, who hears on from where he was, or from now."""
        self.decoded += frames
        self.largest = max(self.largest, frames)
        self.dry_at = max(self.dry_at, now) + frames * FRAME_S

    def chunk(self, sizes: Sequence[int], now: float) -> int:
        """The frames to decode now, one of ``sizes`` (ascending, from 1 on); 0: nothing, or not yet."""
        if self.context:
            left = self.context - self.reach if self.hears else self.context
            return max(size for size in sizes if size <= left)
        step = next((size for size in sizes if size > self.largest), sizes[-1])
        if self.waiting < step and not self.finished and now < self.starved_at:
            return 0
        if self.decoded and now > self.dry_at:
            step = sizes[-1]
        return max((size for size in sizes if size <= min(self.waiting, step)), default=0)

    @property
    def hears(self) -> bool:
        """Whether its next frames need no sound at all."""
        return self.context > self.reach

    @property
    def starved_at(self) -> float:
        """When this stream stops waiting for a full chunk."""
        return self.dry_at - AHEAD_S

    @property
    def urgency(self) -> tuple[bool, float]:
        """Streams sort by it, the most urgent first."""
        if self.context:
            return True, self.since
        if self.decoded == 0:
            return False, self.since
        return True, self.dry_at


class HasProgress(Protocol):
    """A stream, as far as the rule looks at it."""

    @property
    def progress(self) -> Progress: ...


Stream = TypeVar("Stream", bound=HasProgress)


@dataclass(frozen=True)
class Chunk(Generic[Stream]):
    """One decode: ``streams`` take ``shape.frames`` frames each, the rest of the batch is padding."""

    shape: Shape
    streams: tuple[Stream, ...]
    #: Whether no sound is needed.
    hears: bool


def choose(
    streams: Iterable[Stream], shapes: Sequence[Shape], seconds: Mapping[Shape, float], now: float
) -> Chunk[Stream] | None:
    """The next decode, or None when every stream is empty or waits for a full chunk.

    The most urgent stream decides on the frames; of the shapes with that many, the one with the least
    ``seconds`` (measured, by shape) for each stream that it serves.
    """
    sizes = sorted({shape.frames for shape in shapes})
    ready = sorted(
        ((stream.progress.urgency, order, size, stream) for order, stream in enumerate(streams)
         if (size := stream.progress.chunk(sizes, now))),
        key=lambda entry: entry[:2],
    )  # fmt: skip
    if not ready:
        return None
    frames, hears = ready[0][2], ready[0][3].progress.hears
    alike = [stream for _, _, size, stream in ready if size == frames and stream.progress.hears == hears]
    served: dict[int, Shape] = {}
    for shape in sorted(shape for shape in shapes if shape.frames == frames):
        # A larger batch that serves nobody more is padding.
        served.setdefault(min(shape.batch, len(alike)), shape)
    best = served[min(served, key=lambda streams: seconds[served[streams]] / streams)]
    return Chunk(best, tuple(alike[: best.batch]), hears)


def next_look(streams: Iterable[Stream]) -> float | None:
    """When the first stream that waits for a full chunk stops waiting; None: no stream has anything."""
    return min((stream.progress.starved_at for stream in streams if stream.progress.waiting), default=None)


def check(shapes: Sequence[Shape]) -> None:
    """Raise ValueError unless ``shapes`` serve every stream: few, and one frame is among them."""
    if not 1 <= len(shapes) <= MOST_SHAPES or min(shape.frames for shape in shapes) != 1:
        raise ValueError(f"{shapes}: one to {MOST_SHAPES} shapes, among them one of a single frame")
