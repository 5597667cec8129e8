"""What is wrong with a recording is said in words that help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qwen3_tts_service.audio.recording_checks import check
from qwen3_tts_service.errors import InvalidValue

from .waveforms import RATE, speechlike

GOOD = (speechlike(5.0) / 32768).astype(np.float32)


def complaint(waveform: np.ndarray, rate: int = RATE) -> str:
    with pytest.raises(InvalidValue) as caught:
        check(waveform.astype(np.float32), rate, param="audio")
    assert caught.value.param == "audio"
    assert caught.value.message.startswith("`audio` is no recording to take a voice from: ")
    return caught.value.message


@pytest.mark.parametrize("gain", [0.1, 0.3, 1.0, 2.0])
def test_a_good_one_passes_at_usual_levels(gain: float) -> None:
    check(np.clip(gain * GOOD, -0.99, 0.99), RATE, param="audio")


@pytest.mark.parametrize("seconds", [0.0, 0.005, 3.0])
def test_silence_is_said(seconds: float) -> None:
    assert "check the microphone" in complaint(np.zeros(round(seconds * RATE)))


def test_hiss_without_speech_is_silence() -> None:
    hiss = 10 ** (-70 / 20) * np.random.default_rng(0).standard_normal(3 * RATE)
    assert "3.0 s are silent" in complaint(hiss)


def test_too_little_speech_is_said_with_how_much_there_is() -> None:
    silence = np.zeros(4 * RATE, np.float32)
    message = complaint(np.concatenate([silence, GOOD[: RATE // 2]]))
    assert "s of speech in 4.5 s, at least 1 s are wanted" in message


def test_too_quiet_is_said_with_the_level() -> None:
    message = complaint(10 ** (-35 / 20) * GOOD)
    assert "dBFS, at least -45 are wanted" in message
    assert "microphone" in message


@pytest.mark.parametrize("side", [1, -1])
def test_clipping_is_said_with_its_part(side: int) -> None:
    assert "cut off at full scale" in complaint(side * np.clip(20 * GOOD, -0.1, 1))


def test_a_peak_that_touches_full_scale_is_no_clipping() -> None:
    check(GOOD / np.abs(GOOD).max(), RATE, param="audio")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    message = complaint(np.clip(50 * GOOD[: RATE // 2], -1, 1))
    assert "of speech in" in message
    assert "cut off at full scale" in message


@given(
    arrays.arrays(np.float32, st.integers(0, 3000), elements=st.floats(-1, 1, width=32)),
    st.integers(8000, 48_000),
)
def test_any_waveform_is_judged(waveform: np.ndarray, rate: int) -> None:
    """None of these is long enough."""
    assert len(complaint(waveform, rate)) < 500
