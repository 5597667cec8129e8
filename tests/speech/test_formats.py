"""What may be asked for: names and speeds."""

from __future__ import annotations

import math

import pytest

from qwen3_tts_service.errors import InvalidValue, UnsupportedFormat
from qwen3_tts_service.speech.formats import CONTENT_TYPES, Output


def test_an_unknown_format_is_named_with_those_there_are() -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        Output("WAV")
    assert caught.value.param == "response_format"
    for name in ("'WAV'", "mp3", "opus", "aac", "flac", "wav", "pcm"):
        assert name in caught.value.message


@pytest.mark.parametrize("speed", [0.2499, 4.0001, 0.0, -1.0, math.inf, math.nan])
def test_a_speed_out_of_range_is_named_with_the_range(speed: float) -> None:
    with pytest.raises(InvalidValue) as caught:
        Output("mp3", speed=speed)
    assert caught.value.param == "speed"
    assert f"{speed}" in caught.value.message
    assert "from 0.25 to 4" in caught.value.message


@pytest.mark.parametrize("speed", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("name", CONTENT_TYPES)
def test_every_format_goes_at_every_speed(name: str, speed: float) -> None:
    assert Output(name, speed=speed).content_type.startswith("audio/")
