"""One request from its turn to its end, without HTTP: what only a look from inside can show."""

from __future__ import annotations

import contextlib
import io
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qwen3_tts_service.admission import Limits
from qwen3_tts_service.audio import pcm
from qwen3_tts_service.errors import (
    Cancelled,
    DeadlineExceeded,
    DeviceFault,
    Draining,
    EngineError,
    QueueFull,
    UnknownVoice,
)
from qwen3_tts_service.speech.formats import Output
from qwen3_tts_service.speech.request import SpeechRequest
from qwen3_tts_service.synthesis import Load, Speech, Synthesis
from server_process import wait_for
from stand_in_engine import TONE, StandInEngine


def begin(synthesis: Synthesis, text: str = "a", timeout_s: float = 10.0, **arguments: object) -> Speech:
    request = SpeechRequest(text, "vivian", max_frames=100)
    return synthesis.speak(request, output=Output("pcm"), timeout_s=timeout_s, **arguments)  # type: ignore[arg-type]


def speak(synthesis: Synthesis, text: str = "a", timeout_s: float = 10.0, **arguments: object) -> Speech:
    """All of it; the bytes are dropped."""
    with contextlib.closing(begin(synthesis, text, timeout_s, **arguments)) as speech:
        assert b"".join(speech)
    return speech


def test_speech_comes_in_pieces_and_tells_its_length_and_its_end() -> None:
    engine = StandInEngine()
    engine.repeat = 3
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    speech = begin(synthesis)
    assert len(next(speech)) == 4800
    assert (speech.finish, speech.audio_s) == (None, 0.1)
    assert speech.first_audio_s is not None
    assert b"".join(speech) == 2 * pcm.little_endian(pcm.samples(TONE))
    assert (speech.finish, speech.audio_s) == ("stop", pytest.approx(0.3))
    engine.finish = "length"
    assert speak(synthesis).finish == "length"


def test_a_streamed_wav_is_the_whole_one_behind_another_header() -> None:
    engine = StandInEngine()
    engine.repeat = 3
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    request = SpeechRequest("a", "vivian")
    streamed = b"".join(synthesis.speak(request, output=Output("wav"), timeout_s=1))
    [whole] = synthesis.speak(request, output=Output("wav", whole=True), timeout_s=1)
    assert len(streamed) == len(whole) == 44 + 3 * 4800
    assert streamed[44:] == whole[44:]
    for content, frames in ((streamed, 0xFFFFFFFF // 2), (whole, 7200)):
        with wave.open(io.BytesIO(content)) as file:
            assert file.getnframes() == frames


def test_half_speed_is_twice_the_sound() -> None:
    engine = StandInEngine()
    engine.repeat = 10
    speech = Synthesis(engine, limits=Limits(0), streams=1).speak(
        SpeechRequest("a", "vivian"), output=Output("pcm", speed=0.5), timeout_s=1
    )
    first = next(speech)
    assert engine.utterances[0].pieces < 10, "it leaves while it is made"
    assert len(first) + len(b"".join(speech)) == 2 * 48_000
    assert (speech.audio_s, speech.finish) == (2.0, "stop")


def test_a_long_piece_leaves_in_parts_of_a_second() -> None:
    """Upstream's own generate gives all of its sound at once."""
    engine = StandInEngine()
    engine.waveform = np.zeros(60_000, np.float32)
    assert [len(part) for part in begin(Synthesis(engine, limits=Limits(0), streams=1))] == [
        48_000,
        48_000,
        24_000,
    ]


@pytest.mark.parametrize("speed", [1.0, 4.0])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_no_sound(poison: float, speed: float) -> None:
    engine = StandInEngine()
    engine.waveform = np.array([0.1, poison], np.float32)
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    speech = synthesis.speak(SpeechRequest("a", "vivian"), output=Output("mp3", speed=speed), timeout_s=1)
    with pytest.raises(EngineError, match="NaN or infinity"):
        next(speech)
    assert (speech.finish, synthesis.load.speaking) == ("error", 0)


def test_as_many_speak_as_there_are_slots() -> None:
    engine = StandInEngine(slots=3)
    engine.go.clear()
    synthesis = Synthesis(engine, limits=Limits(1), streams=3)
    speaking = [begin(synthesis, str(number)) for number in range(3)]
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(begin, synthesis, "waits")
        wait_for(lambda: synthesis.load == Load(3, 3, 3, 1), "three speak, one waits")
        with pytest.raises(QueueFull):
            begin(synthesis)
        speaking[1].close()
        waits.result(5)
        assert engine.begun == ["0", "1", "2", "waits"]
        assert synthesis.load == Load(3, 3, 3, 0)


def test_closing_half_way_gives_the_slot_back_once() -> None:
    engine = StandInEngine()
    engine.repeat = 3
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    speech = begin(synthesis)
    next(speech)
    speech.close()
    speech.close()
    assert speech.finish == "cancelled"
    assert synthesis.load == Load(1, 1, 0, 0)
    assert engine.utterances[0].left is not None
    assert engine.spoken == []


def test_whoever_is_cancelled_from_another_thread_hears_of_it() -> None:
    engine = StandInEngine()
    engine.go.clear()
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    speech = begin(synthesis)
    threading.Timer(0.1, speech.cancel).start()
    with pytest.raises(Cancelled):
        next(speech)
    assert (speech.finish, synthesis.load.speaking) == ("cancelled", 0)


def test_a_lost_device_is_told_whoever_asked() -> None:
    told: list[DeviceFault] = []
    engine = StandInEngine()
    engine.repeat, engine.fault, engine.fault_at = 2, DeviceFault("gone"), 1
    synthesis = Synthesis(engine, limits=Limits(0), streams=1, on_fault=told.append)
    speech = begin(synthesis)
    next(speech)
    with pytest.raises(DeviceFault):
        next(speech)
    assert (told, speech.finish) == ([engine.fault], "error")


def test_who_is_refused_costs_the_engine_nothing() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    with contextlib.closing(begin(synthesis)):
        engine.check = None  # type: ignore[method-assign, assignment]
        with pytest.raises(QueueFull):
            begin(synthesis)


def test_a_wrong_request_takes_no_place() -> None:
    synthesis = Synthesis(StandInEngine(), limits=Limits(0), streams=1)
    with pytest.raises(UnknownVoice):
        synthesis.speak(SpeechRequest("a", "nobody"), output=Output("pcm"), timeout_s=1)
    assert synthesis.room.wait_until_idle(0)


@pytest.mark.parametrize("fault", [EngineError("planted"), ZeroDivisionError("planted")])
def test_an_error_frees_the_place(fault: Exception) -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, limits=Limits(0), streams=1)
    engine.fault = fault
    with pytest.raises(type(fault), match="planted"):
        speak(synthesis)
    engine.fault = None
    assert speak(synthesis).audio_s == pytest.approx(0.1)


@pytest.mark.measuring
def test_the_deadline_counts_the_time_in_the_queue() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, limits=Limits(1), streams=1)
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
    synthesis = Synthesis(engine, limits=Limits(1), streams=1)
    engine.go.clear()
    with pytest.raises(Cancelled):
        speak(synthesis, gone=lambda: True)
    assert synthesis.room.wait_until_idle(0)


def test_closing_finishes_what_was_accepted_and_takes_no_more() -> None:
    engine = StandInEngine()
    synthesis = Synthesis(engine, limits=Limits(2), streams=1)
    engine.go.clear()
    with ThreadPoolExecutor() as pool:
        accepted = [pool.submit(speak, synthesis, "a"), pool.submit(speak, synthesis, "b")]
        wait_for(lambda: synthesis.load.waiting == 1, "one runs, one waits")
        synthesis.room.close()
        with pytest.raises(Draining):
            speak(synthesis)
        assert synthesis.room.wait_until_idle(0.1) is False
        engine.go.set()
        assert synthesis.room.wait_until_idle(5) is True
        assert [future.result(5).audio_s for future in accepted] == [0.1, 0.1]
