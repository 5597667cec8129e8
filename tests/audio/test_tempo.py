"""Speed: as long as asked for, at the pitch it had, whatever the pieces are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_tts_service.audio.tempo import Tempo

from .waveforms import RATE, loudest_hertz, pieces, speechlike, tone

SPEEDS = [0.25, 0.3, 0.5, 0.77, 0.99, 1.01, 1.5, 2.0, 2.5, 3.99, 4.0]


def played(speed: float, parts: list[np.ndarray]) -> np.ndarray:
    tempo = Tempo(speed, RATE)
    return np.concatenate([*(tempo.feed(part) for part in parts), tempo.finish()])


@pytest.mark.parametrize("hertz", [110.0, 440.0])
@pytest.mark.parametrize("speed", SPEEDS)
def test_length_follows_and_pitch_stays(speed: float, hertz: float) -> None:
    heard = played(speed, pieces(tone(3.0, hertz)))
    assert len(heard) == round(3 * RATE / speed)
    assert loudest_hertz(heard) == pytest.approx(hertz, rel=0.01)
    # It is still a tone and not a flutter: as loud all along.
    loudness = [float(np.std(part)) for part in pieces(heard[1000:-2000], 1200)][:-1]
    assert min(loudness) > 0.8 * max(loudness)


@settings(max_examples=60, deadline=None)
@given(
    speed=st.floats(0.25, 4.0, allow_nan=False),
    length=st.integers(0, RATE),
    cuts=st.lists(st.integers(0, RATE), max_size=12),
)
def test_pieces_change_nothing(speed: float, length: int, cuts: list[int]) -> None:
    spoken = speechlike(1.0)[:length]
    heard = played(speed, [spoken])
    assert len(heard) == round(length / speed)
    assert np.array_equal(heard, played(speed, np.split(spoken, sorted(min(cut, length) for cut in cuts))))


@pytest.mark.parametrize("speed", SPEEDS)
def test_what_was_said_when_is_said_in_its_place(speed: float) -> None:
    """A beep from 1.0 to 1.5 s of 2.5 s."""
    silence = np.zeros(RATE, np.int16)
    heard = played(speed, pieces(np.concatenate([silence, tone(0.5), silence])))
    loud = np.flatnonzero(np.abs(heard.astype(int)) > 500) / RATE
    assert loud[0] == pytest.approx(1.0 / speed, abs=0.06 * max(1, 1 / speed))
    assert loud[-1] == pytest.approx(1.5 / speed, abs=0.06 * max(1, 1 / speed))


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_last_word_is_not_cut_off(speed: float) -> None:
    heard = played(speed, pieces(np.concatenate([np.zeros(RATE, np.int16), tone(1.0)])))
    end = heard[-round(0.04 * RATE / speed) :]
    assert np.abs(end.astype(int)).max() > 5000


@pytest.mark.parametrize("speed", SPEEDS)
def test_it_lags_little_behind(speed: float) -> None:
    tempo = Tempo(speed, RATE)
    taken = given = 0
    for part in pieces(speechlike(3.0)):
        taken += len(part)
        given += len(tempo.feed(part))
        assert taken - given * speed <= RATE * (0.1 if 0.5 <= speed <= 2 else 0.25)
