"""A decoder small enough to be understood: what it says shows whose frame it was and what came before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

SAMPLES = 1920


@dataclass
class ToyState:
    """The running sum of a stream's codes: any frame lost, doubled, swapped or mixed up changes it for good."""

    total: int = 0


class ToyDecoder:
    """Sound of a frame: the sum of all codes so far, times 1e-6. Frames with a code below 0 raise.

    Every call takes ``call_s`` seconds and ``frame_s`` for each frame of each row. ``calls`` lists
    (batch, frames, name of the thread) and ``heard`` counts the frames that made no sound; ``hold`` stops all
    calls while it is cleared.
    """

    device = torch.device("cpu")
    reach = 5

    def __init__(self, call_s: float = 0.0, frame_s: float = 0.0) -> None:
        self.call_s = call_s
        self.frame_s = frame_s
        self.calls: list[tuple[int, int, str]] = []
        self.heard = 0
        self.hold = threading.Event()
        self.hold.set()

    def prepare(self, shapes: Sequence[tuple[int, int]]) -> None:
        pass

    def new_state(self, batch: int = 1) -> ToyState:
        return ToyState()

    def hear(self, codes: torch.Tensor, states: list[ToyState]) -> None:
        self.heard += codes.shape[0] * codes.shape[2]
        for state, row in zip(states, codes, strict=True):
            state.total += int(row.sum())

    def decode(self, codes: torch.Tensor, states: list[ToyState]) -> torch.Tensor:
        batch, books, frames = codes.shape
        assert books == 16
        assert len(states) == batch
        self.calls.append((batch, frames, threading.current_thread().name))
        assert self.hold.wait(10)
        time.sleep(self.call_s + self.frame_s * batch * frames)
        if int(codes.min()) < 0:
            raise IndexError("a code is out of range")
        running = codes.sum(1).cumsum(1) + torch.tensor([[state.total] for state in states])
        for state, row in zip(states, running, strict=True):
            state.total = int(row[-1])
        return (running * 1e-6).float().repeat_interleave(SAMPLES, dim=1)


def frames(count: int, seed: int) -> npt.NDArray[np.int32]:
    """Codes [count, 16]."""
    return np.random.default_rng(seed).integers(0, 2048, (count, 16), np.int32)


def sound(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """What the toy decoder says to ``codes`` [frames, 16], undivided."""
    running = np.cumsum(codes.sum(1, dtype=np.int64))
    return np.repeat((running * 1e-6).astype(np.float32), SAMPLES)
