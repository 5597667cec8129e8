"""Encoders, read back with what clients use: the standard library and libsndfile."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qwen3_tts_service.audio import encoders
from qwen3_tts_service.errors import EngineError

TONE = (0.2 * np.sin(np.arange(1, 4801) / 9)).astype(np.float32)


@given(arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(-2, 2, width=32)))
def test_samples_are_the_waveform_clipped(waveform: np.ndarray) -> None:
    samples = np.frombuffer(encoders.sound(waveform), "<i2").astype(np.float64)
    # Half a step of rounding; what is louder than full scale is clipped and does not wrap around.
    assert np.abs(samples / 32767 - np.clip(waveform, -32768 / 32767, 1)).max() <= 0.5001 / 32767


@given(st.lists(st.integers(0, 4800), max_size=6))
def test_pieces_are_the_whole(cuts: list[int]) -> None:
    pieces = np.split(TONE, sorted(cuts))
    assert b"".join(map(encoders.sound, pieces)) == encoders.sound(TONE)


@pytest.mark.parametrize("known", [True, False], ids=["whole", "streamed"])
def test_clients_read_both_headers(known: bool) -> None:
    sound = encoders.sound(TONE)
    content = encoders.header("wav", 24_000, len(sound) if known else None) + sound
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.getnframes() == (4800 if known else 0xFFFFFFFF // 2)
        assert file.readframes(file.getnframes()) == sound
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert (rate, samples.tobytes()) == (24_000, sound)


def test_a_whole_header_is_libsndfiles_own() -> None:
    sound = encoders.sound(TONE)
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(sound, "<i2"), 24_000, format="WAV", subtype="PCM_16")
    assert encoders.header("wav", 24_000, len(sound)) + sound == file.getvalue()


def test_pcm_has_no_header() -> None:
    assert encoders.header("pcm", 24_000) == b""


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_no_sound(poison: float) -> None:
    with pytest.raises(EngineError, match="NaN or infinity"):
        encoders.sound(np.array([0.1, poison], np.float32))
