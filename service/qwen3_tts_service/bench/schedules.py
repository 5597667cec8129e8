"""Requests on a scheduler that this thread turns by hand: alone, in a crowd, through pauses and moves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import Prompt
from ..engine.scheduler import Finish, FrameRequest, Job, Scheduler
from ..errors import TTSError
from ..speech.request import Sampling

Codes = npt.NDArray[np.int32]


class CountingRunner(FrameRunner):
    """The engine's runner; ``launched`` counts the frames of each batch size.

    With ``capture_prompts`` false prompts are read by plain torch: capturing their graphs takes longer than
    what is compared here.
    """

    def __init__(self, model: FrameModel, *, capture_prompts: bool = True) -> None:
        self.launched: Counter[int] = Counter()
        self._capture_prompts = capture_prompts
        super().__init__(model)

    def launch(self, batch: int, active: Sequence[bool]) -> Any:
        """As the engine's."""
        self.launched[batch] += 1
        return super().launch(batch, active)

    def _capture_prefill(self) -> None:
        if self._capture_prompts:
            super()._capture_prefill()


@dataclass
class Reader:
    """Takes a request's frames; ``held`` pauses it."""

    frames: list[Codes] = field(default_factory=list)
    held: bool = False
    reason: Finish | None = None
    error: TTSError | None = None

    def frame(self, codes: Codes) -> None:
        self.frames.append(codes.copy())

    def full(self) -> bool:
        return self.held

    def finished(self, reason: Finish | None, error: TTSError | None) -> None:
        self.reason, self.error = reason, error

    @property
    def codes(self) -> Codes:
        """[frames, 16] so far."""
        return np.array(self.frames, dtype=np.int32).reshape(-1, 16)


@dataclass(frozen=True)
class Voice:
    """A request and what it says when it is alone."""

    request: FrameRequest
    codes: Codes


@dataclass(frozen=True)
class Day:
    """What every voice said in one random schedule, how often one was paused, moved, or given up."""

    spoken: list[tuple[Voice, Codes]]
    pauses: int
    moves: int


def request(prompt: Prompt, sampling: Sampling, seed: int, frames: int) -> FrameRequest:
    """A request of ``frames`` frames that has all the time there is."""
    return FrameRequest(prompt, sampling, seed, frames, deadline=float("inf"))


def scheduler(runner: FrameRunner) -> Scheduler:
    """One whose rounds the caller makes. No code is called -1: speech goes on to its limit."""
    return Scheduler(runner, eos=-1, on_device_fault=lambda error: None, queue_size=1 << 20)


def finish(turned: Scheduler) -> None:
    """Make rounds until nothing is left to do."""
    while turned.round():
        pass


def alone(runner: FrameRunner, asked: FrameRequest) -> Codes:
    """What a request says with nobody beside it."""
    reader, turned = Reader(), scheduler(runner)
    turned.submit(asked, reader)
    finish(turned)
    return reader.codes


def crowd(runner: FrameRunner, asked: Sequence[FrameRequest]) -> list[Codes]:
    """What each says when all are spoken together, each entering some frames after the one before."""
    turned, readers = scheduler(runner), []
    for number, one in enumerate(asked):
        reader = Reader()
        readers.append(reader)
        turned.submit(one, reader)
        for _ in range(number % 3):
            turned.round()
    finish(turned)
    return [reader.codes for reader in readers]


def day(runner: FrameRunner, voices: Sequence[Voice], chance: random.Random) -> Day:
    """The voices in any order, each entering, pausing, being given up and moved at random."""
    turned = scheduler(runner)
    clients: list[tuple[Voice, Job, Reader]] = []
    waiting, pauses = list(voices), 0
    chance.shuffle(waiting)
    # Up to a full batch at first; then one by one, so that every batch size comes.
    rush = runner.slots
    while waiting:
        for _ in range(rush or chance.choice((0, 0, 0, 1, 1, 4))):
            if waiting:
                voice, reader = waiting.pop(), Reader()
                clients.append((voice, turned.submit(voice.request, reader), reader))
        rush = 0
        for _, job, reader in clients:
            what = chance.random()
            if what < 0.01:
                job.cancel()
            elif what < 0.05:
                reader.held = not reader.held
                pauses += reader.held
        for _ in range(chance.randint(1, 6)):
            turned.round()
    for _, _, reader in clients:
        reader.held = False
    finish(turned)
    return Day([(voice, reader.codes) for voice, _, reader in clients], pauses, turned.stats().moves)
