"""Memory between two processes: what is written to a lane is what is read from it, however it was cut."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_tts_service.engine_process.sound import SoundMemory
from qwen3_tts_service.errors import EngineError
from qwen3_tts_service.speech.listening import AHEAD_FRAMES
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME


def frames(first: int, count: int) -> np.ndarray:
    """Samples that tell their own place, exactly."""
    return np.arange(first * SAMPLES_A_FRAME, (first + count) * SAMPLES_A_FRAME, dtype=np.float32)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 40), min_size=10, max_size=40),
    lag=st.integers(0, AHEAD_FRAMES),
    lane=st.integers(0, 2),
)
def test_any_cut_arrives_whole_through_the_other_mapping(cuts: list[int], lag: int, lane: int) -> None:
    ours = SoundMemory.create(3)
    theirs = SoundMemory(os.dup(ours.descriptor), 3)
    written = read = 0
    for cut in cuts:
        # A reader that lags as far as a speaker lets it.
        while written + cut - read > max(lag, cut):
            step = min(7, written - read)
            got = ours.read(lane, read * SAMPLES_A_FRAME, (read + step) * SAMPLES_A_FRAME)
            np.testing.assert_array_equal(got, frames(read, step))
            read += step
            ours.taken[lane] = read
        theirs.write(lane, written * SAMPLES_A_FRAME, frames(written, cut))
        written += cut
    rest = ours.read(lane, read * SAMPLES_A_FRAME, written * SAMPLES_A_FRAME)
    np.testing.assert_array_equal(rest, frames(read, written - read))
    for other in {0, 1, 2} - {lane}:
        assert not ours.read(other, 0, 10 * SAMPLES_A_FRAME).any()
    os.close(ours.descriptor)
    os.close(theirs.descriptor)


def test_what_is_not_taken_is_never_overwritten() -> None:
    memory = SoundMemory.create(1)
    memory.write(0, 0, frames(0, AHEAD_FRAMES))
    with pytest.raises(EngineError, match="did not pause"):
        memory.write(0, AHEAD_FRAMES * SAMPLES_A_FRAME, frames(AHEAD_FRAMES, 20))
    np.testing.assert_array_equal(memory.read(0, 0, AHEAD_FRAMES * SAMPLES_A_FRAME), frames(0, AHEAD_FRAMES))
    memory.taken[0] = 20
    memory.write(0, AHEAD_FRAMES * SAMPLES_A_FRAME, frames(AHEAD_FRAMES, 20))
