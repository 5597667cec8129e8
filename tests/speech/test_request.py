"""Sampling values that cannot be spoken with are refused where they are made."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwen3_tts_service.errors import InvalidValue
from qwen3_tts_service.speech.request import CloneReference, Sampling, SpeechRequest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("subtalker_temperature", -1.0),
        ("top_k", -1),
        ("subtalker_top_k", -5),
        ("top_p", 0.0),
        ("subtalker_top_p", 1.01),
        ("top_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 11.0),
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(InvalidValue, match=f"`{name}` is {value}: it must be") as caught:
        Sampling(**{name: value})  # type: ignore[arg-type]
    assert caught.value.param == name


def test_the_ends_of_the_ranges_are_allowed() -> None:
    Sampling(temperature=10.0, top_k=0, top_p=1.0, repetition_penalty=1.0, subtalker_top_k=1)


def test_a_cloned_voice_is_fed_as_upstream_does_unless_told_otherwise() -> None:
    recording = CloneReference(np.zeros(24_000, np.float32), 24_000)
    assert SpeechRequest("Hello.").feeding == "whole"
    assert SpeechRequest("Hello.", clone=recording).feeding == "streaming"
    assert SpeechRequest("Hello.", clone=recording, text_feeding="whole").feeding == "whole"
