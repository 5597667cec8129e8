"""A device that computes frames like the real one in every respect that the scheduler can see, but numbers.

Commands are done in order and late: nothing is computed before somebody waits for it, unless ``eager`` says so
from time to time. A slot's codes depend on its seed and step only. Whatever must not be read is poisoned.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from qwen3_tts_service.engine.jobs import Finish, FrameRequest
from qwen3_tts_service.errors import TTSError
from qwen3_tts_service.speech.request import Sampling

EOS = 2150
#: What rows hold that nobody may read.
POISON = -777
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class ModelPrompt:
    """A prompt of ``positions`` whose speech ends after ``ends_after`` frames; ``refusal`` is what admission raises."""

    ends_after: int
    positions: int = 8
    refusal: Exception | None = None

    @property
    def embeds(self) -> npt.NDArray[np.float32]:
        return np.zeros((self.positions, 1), dtype=np.float32)


def frame_request(
    ends_after: int,
    *,
    seed: int = 0,
    max_frames: int = 1000,
    deadline: float = float("inf"),
    positions: int = 8,
    refusal: Exception | None = None,
) -> FrameRequest:
    prompt = ModelPrompt(ends_after, positions, refusal)
    return FrameRequest(prompt, Sampling(), seed, max_frames, deadline)  # type: ignore[arg-type]


def codes(seed: int, step: int) -> list[int]:
    return [(seed * 7919 + step * 104729 + codebook * 31) % 2048 for codebook in range(16)]


def undisturbed(ends_after: int, *, seed: int, max_frames: int) -> tuple[list[list[int]], Finish]:
    """The frames of a request that is alone on the device, and how it ends."""
    frames = [codes(seed, step) for step in range(min(ends_after, max_frames))]
    return frames, "stop" if ends_after < max_frames else "length"


@dataclass
class Row:
    """A slot's state on the device; as it stands here: of a slot that was never filled."""

    seed: int = POISON
    step: int = POISON
    ends_after: int = 1 << 40
    max_frames: int = 1 << 40
    done: bool = False


@dataclass(frozen=True)
class Result:
    codes: npt.NDArray[np.int32]
    done: npt.NDArray[np.bool_]


@dataclass(eq=False)
class Ticket:
    device: DeviceModel
    result: Result | None = None

    def read(self) -> Result:
        return self.device.read(self)


@dataclass
class DeviceModel:
    """See the module. ``frame_s`` is how long a frame takes before it can be read (seconds)."""

    slots: int
    frame_s: float = 0.0
    eager: random.Random | None = None
    computes_at_launch: bool = False
    batch_sizes: tuple[int, ...] = ()
    launches: list[tuple[int, tuple[bool, ...]]] = field(default_factory=list)
    admissions: list[int] = field(default_factory=list)  # seeds, in order
    moves: list[tuple[int, int]] = field(default_factory=list)
    #: For a device that fails or hangs: called at the beginning of each of these.
    before_read: Callable[[], object] = lambda: None
    before_launch: Callable[[], object] = lambda: None
    before_admit: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        if not self.batch_sizes:
            self.batch_sizes = (*(size for size in BATCH_SIZES if size < self.slots), self.slots)
        self._rows = [Row() for _ in range(self.slots)]
        self._commands: deque[Callable[[], None]] = deque()
        self._unread: deque[Ticket] = deque()
        self._thread: int | None = None
        self._free_at = 0.0

    def admit(self, slot: int, prompt: ModelPrompt, sampling: Sampling, seed: int, max_frames: int) -> int:
        self._same_thread()
        self.before_admit()
        self.admissions.append(seed)
        if prompt.refusal is not None:
            # As far as it got before it failed.
            self._do(lambda: self._rows.__setitem__(slot, Row()))
            raise prompt.refusal
        row = Row(seed, 0, prompt.ends_after, max_frames)
        self._do(lambda: self._rows.__setitem__(slot, row))
        return max_frames

    def move(self, source: int, target: int) -> None:
        self._same_thread()
        self.moves.append((source, target))

        def copy() -> None:
            self._rows[target] = replace(self._rows[source])
            self._rows[source] = Row()

        self._do(copy)

    def launch(self, batch: int, active: Sequence[bool]) -> Ticket:
        self._same_thread()
        self.before_launch()
        assert batch in self.batch_sizes
        assert len(active) == batch
        assert any(active), "a frame of nobody"
        assert len(self._unread) < 2, "more than one frame ahead of the reading"
        self.launches.append((batch, tuple(active)))
        ticket, now = Ticket(self), tuple(active)
        self._unread.append(ticket)
        self._do(lambda: self._compute(ticket, now))
        while self.computes_at_launch and self._commands:
            self._commands.popleft()()
        self._free_at = max(self._free_at, time.monotonic()) + self.frame_s
        return ticket

    def read(self, ticket: Ticket) -> Result:
        self._same_thread()
        self.before_read()
        assert ticket is self._unread.popleft(), "frames are read in order"
        if self.frame_s:
            time.sleep(max(0.0, self._free_at - self.frame_s * len(self._unread) - time.monotonic()))
        while ticket.result is None:
            self._commands.popleft()()
        return ticket.result

    def _do(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        if self.eager is not None:
            for _ in range(self.eager.randint(0, len(self._commands))):
                self._commands.popleft()()

    def _compute(self, ticket: Ticket, active: tuple[bool, ...]) -> None:
        result = Result(np.full((len(active), 16), POISON, dtype=np.int32), np.zeros(len(active), dtype=bool))
        for index, row in enumerate(self._rows[: len(active)]):
            if active[index] and not row.done:
                ends = row.step == row.ends_after
                row.done = ends or row.step + 1 == row.max_frames
                result.codes[index] = codes(row.seed, row.step)
                if ends:
                    result.codes[index, 0] = EOS
                row.step += 1
            result.done[index] = row.done
        ticket.result = result

    def _same_thread(self) -> None:
        self._thread = self._thread or threading.get_ident()
        assert self._thread == threading.get_ident(), "the device has one thread"


class Reader:
    """A sink that remembers. ``held`` is what it answers to ``full``; ``fails`` makes it raise."""

    def __init__(self) -> None:
        self.frames: list[list[int]] = []
        self.endings: list[tuple[Finish | None, TTSError | None]] = []
        self.held = False
        self.fails: Exception | None = None
        self.over = threading.Event()

    def frame(self, codes: npt.NDArray[np.int32]) -> None:
        # No assertions in here: the loop takes what a reader raises for the reader's own fault.
        if self.fails is not None:
            raise self.fails
        self.frames.append(codes.tolist())

    def full(self) -> bool:
        return self.held

    def finished(self, reason: Finish | None, error: TTSError | None) -> None:
        self.endings.append((reason, error))
        self.over.set()

    @property
    def ending(self) -> tuple[Finish | None, TTSError | None]:
        [ending] = self.endings
        return ending
