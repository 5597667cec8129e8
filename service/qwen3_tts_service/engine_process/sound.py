"""Memory that two processes see, for sound on its way from one to the other.

A lane is a ring of float32 samples for one utterance: one process writes, the other reads, and tells through
``taken`` how many frames were read, which is all that the writer's backpressure needs. How far the writer has
come is a message (:class:`.messages.Heard`), so nobody reads what is not there yet.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..speech.listening import AHEAD_FRAMES, Waveform
from ..speech.request import SAMPLES_A_FRAME

#: A speaker looks once a frame whether it is far ahead, and one frame is launched before that of another is read.
_LANE_SAMPLES = (AHEAD_FRAMES + 8) * SAMPLES_A_FRAME
_SAMPLE_BYTES, _COUNT_BYTES = 4, 8


class SoundMemory:
    """``lanes`` lanes in the file ``descriptor``. Pages are taken from the system only once they are used."""

    def __init__(self, descriptor: int, lanes: int) -> None:
        self.descriptor = descriptor
        self.lanes = lanes
        memory = mmap.mmap(descriptor, _size(lanes))
        #: Frames taken from each lane: written by the reader, one aligned word each, so never seen half.
        self.taken: npt.NDArray[np.int64] = np.frombuffer(memory, np.int64, lanes)
        self._samples: Waveform = np.frombuffer(memory, np.float32, offset=_COUNT_BYTES * lanes).reshape(
            lanes, _LANE_SAMPLES
        )

    @classmethod
    def create(cls, lanes: int) -> SoundMemory:
        """New memory, all zeros, that goes when both processes have ended."""
        descriptor = os.memfd_create("qwen3-tts-sound")
        os.truncate(descriptor, _size(lanes))
        return cls(descriptor, lanes)

    def write(self, lane: int, start: int, chunk: Waveform) -> None:
        """Write samples ``start`` and following of a lane's utterance.

        Raises EngineError where they would cover samples that are not taken yet.
        """
        if start + len(chunk) - int(self.taken[lane]) * SAMPLES_A_FRAME > _LANE_SAMPLES:
            raise EngineError(
                f"sound of {start + len(chunk)} samples for a lane of {_LANE_SAMPLES} of which "
                f"{int(self.taken[lane]) * SAMPLES_A_FRAME} were taken: the speaker did not pause"
            )
        place = start % _LANE_SAMPLES
        before_end = min(len(chunk), _LANE_SAMPLES - place)
        self._samples[lane, place : place + before_end] = chunk[:before_end]
        self._samples[lane, : len(chunk) - before_end] = chunk[before_end:]

    def read(self, lane: int, start: int, end: int) -> Waveform:
        """A copy of samples ``start`` to ``end`` of a lane's utterance."""
        place = start % _LANE_SAMPLES
        ring: Waveform = self._samples[lane]
        if place + end - start <= _LANE_SAMPLES:
            return ring[place : place + end - start].copy()
        return np.concatenate([ring[place:], ring[: place + end - start - _LANE_SAMPLES]])


def _size(lanes: int) -> int:
    return lanes * (_COUNT_BYTES + _LANE_SAMPLES * _SAMPLE_BYTES)
