"""How long a text may become."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwen3_tts_service.engine.budget import frame_budget
from qwen3_tts_service.speech.request import FRAMES_A_SECOND


@given(st.integers(0, 5000), st.integers(1, 10_000))
def test_it_grows_with_the_text_up_to_the_cap(tokens: int, cap: int) -> None:
    budget = frame_budget(tokens, cap=cap)
    assert 1 <= budget <= cap
    assert frame_budget(tokens + 1, cap=cap) >= budget


def test_slow_speech_fits_and_babble_does_not() -> None:
    # "Hello." drawn out over five seconds; a paragraph of 100 tokens, 30 s at an ordinary pace, at a third of it.
    assert frame_budget(2, cap=10_000) >= 5 * FRAMES_A_SECOND
    assert frame_budget(100, cap=10_000) >= 90 * FRAMES_A_SECOND
    assert frame_budget(100, cap=10_000) <= 120 * FRAMES_A_SECOND
