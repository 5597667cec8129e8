"""Frames under the clock, launched as the service launches them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.prompt import Prompt
from ..speech.request import Sampling
from .statistics import Spread, intervals, spread

#: What the slots of a batch ask for, in turn: each way of sampling has its own cost, and all are in the graph.
MIXED_SAMPLING = (
    Sampling(),
    Sampling(temperature=0.7, top_k=0, top_p=0.9),
    Sampling(temperature=1.1, top_k=20, repetition_penalty=1.2, subtalker_top_p=0.8),
    Sampling(greedy=True),
)
#: Frames before the timed ones: the first launch of a batch size may compile and capture.
WARM_UPS = 8


@dataclass(frozen=True)
class Frames:
    """Timed frames of one batch size: seconds between two that were read, in order, and of the host for each."""

    seconds: Sequence[float]
    host: Spread

    @property
    def gaps(self) -> Spread:
        """Of ``seconds``."""
        return spread(self.seconds)


def time_frames(runner: Any, prompt: Prompt, *, batch: int, frames: int) -> Frames:
    """``frames`` frames of ``batch`` slots with mixed sampling, launched as the service does.

    The slots are admitted here; the last timed frame stands ``frames`` + 8 behind the prompt.
    """
    for slot in range(batch):
        runner.admit(slot, prompt, MIXED_SAMPLING[slot % len(MIXED_SAMPLING)], seed=slot, max_frames=1 << 20)
    active = [True] * batch
    # Where a frame is computed by its launch, nothing can be gained by launching ahead.
    ahead = [] if runner.computes_at_launch else [runner.launch(batch, active)]
    read_at: list[float] = []
    host: list[float] = []
    for _ in range(WARM_UPS + frames):
        began = time.perf_counter()
        ahead.append(runner.launch(batch, active))
        host.append(time.perf_counter() - began)
        ahead.pop(0).read()
        read_at.append(time.perf_counter())
    for ticket in ahead:
        ticket.read()
    return Frames(intervals(read_at[WARM_UPS - 1 :]), spread(host[WARM_UPS:]))
