"""Encoders, read back with the standard library."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qwen3_tts_service.audio import encoders
from qwen3_tts_service.errors import EngineError


def encode(waveform: np.ndarray, audio_format: str) -> bytes:
    return encoders.encode(waveform, sample_rate=24_000, audio_format=audio_format)


@given(arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(-2, 2, width=32)))
def test_wav_is_pcm_with_a_header_and_both_are_the_waveform(waveform: np.ndarray) -> None:
    pcm = encode(waveform, "pcm")
    with wave.open(io.BytesIO(encode(waveform, "wav"))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.getnframes() == len(waveform)
        assert file.readframes(len(waveform)) == pcm
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    # Half a step of rounding; what is louder than full scale is clipped and does not wrap around.
    assert np.abs(samples / 32767 - np.clip(waveform, -32768 / 32767, 1)).max() <= 0.5001 / 32767


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("audio_format", ["wav", "pcm"])
def test_what_is_no_number_is_no_sound(poison: float, audio_format: str) -> None:
    with pytest.raises(EngineError, match="NaN or infinity"):
        encode(np.array([0.1, poison], np.float32), audio_format)
