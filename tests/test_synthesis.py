"""The queue without HTTP: what only a look from inside can show."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qwen3_tts_service.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    EngineError,
    QueueFull,
    UnknownVoice,
)
from qwen3_tts_service.speech.request import SpeechRequest
from qwen3_tts_service.synthesis import Speech, Synthesis
from server_process import wait_for
from stand_in_engine import StandInEngine


def speak(synthesis: Synthesis, text: str = "a", timeout_s: float = 10.0, **arguments: object) -> Speech:
    request = SpeechRequest(text, "vivian", max_frames=100)
    return synthesis.speak(request, audio_format="pcm", timeout_s=timeout_s, **arguments)  # type: ignore[arg-type]


def test_speech_tells_its_length_and_its_end() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, queue_size=0)
    speech = speak(synthesis)
    assert (speech.audio_s, speech.finish, len(speech.audio)) == (0.1, "stop", 4800)
    engine.waveform = np.full(100 * 1920, 0.1, np.float32)
    assert speak(synthesis).finish == "length"


def test_a_wrong_request_takes_no_place() -> None:
    synthesis = Synthesis(StandInEngine(), queue_size=0)
    with pytest.raises(UnknownVoice):
        synthesis.speak(SpeechRequest("a", "nobody"), audio_format="pcm", timeout_s=1)
    assert synthesis.wait_until_idle(0)


@pytest.mark.parametrize("fault", [EngineError("planted"), ZeroDivisionError("planted")])
def test_an_error_frees_the_place(fault: Exception) -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, queue_size=0)
    engine.fault = fault
    with pytest.raises(type(fault), match="planted"):
        speak(synthesis)
    engine.fault = None
    assert speak(synthesis).audio_s == 0.1


def test_between_two_turns_the_queue_does_not_grow() -> None:
    """When one has finished and the next has not woken up yet nobody runs: that is no free place more."""
    synthesis = Synthesis(StandInEngine(), queue_size=1)
    synthesis._waiting.append(object())
    synthesis._waiting.append(object())
    with pytest.raises(QueueFull, match="2 requests are waiting and 1 may"):
        speak(synthesis)


def test_retry_after_follows_the_measured_time() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, queue_size=0)
    synthesis._mean_s = 40.0
    engine.go.clear()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(speak, synthesis)
        wait_for(lambda: engine.begun, "it runs")
        with pytest.raises(QueueFull) as caught:
            speak(synthesis)
        engine.go.set()
        running.result(5)
    assert caught.value.retry_after_s == 40
    assert synthesis._mean_s < 40


def test_the_deadline_counts_the_time_in_the_queue() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, queue_size=1)
    engine.go.clear()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(speak, synthesis)
        wait_for(lambda: engine.begun, "it runs")
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            speak(synthesis, timeout_s=0.2)
        assert 0.2 <= time.monotonic() - started < 1
        engine.go.set()
        assert running.result(5).queue_s < 0.1


def test_whoever_leaves_is_not_spoken_for() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, queue_size=1)
    engine.go.clear()
    with pytest.raises(Cancelled):
        speak(synthesis, gone=lambda: True)
    assert synthesis.wait_until_idle(0)


def test_closing_finishes_what_was_accepted_and_takes_no_more() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, queue_size=2)
    engine.go.clear()
    with ThreadPoolExecutor() as pool:
        accepted = [pool.submit(speak, synthesis, "a"), pool.submit(speak, synthesis, "b")]
        wait_for(lambda: len(synthesis._waiting) == 1, "one runs, one waits")
        synthesis.close()
        with pytest.raises(Draining):
            speak(synthesis)
        assert synthesis.wait_until_idle(0.1) is False
        engine.go.set()
        assert synthesis.wait_until_idle(5) is True
        assert [future.result(5).audio_s for future in accepted] == [0.1, 0.1]
