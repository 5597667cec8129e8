"""A voice that comes with the request: a recording is decoded, judged, listened to, and speaks this once."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from qwen3_tts_service.config import Settings
from qwen3_tts_service.engine_process.parent import EngineProcess
from qwen3_tts_service.lifecycle import ModelSource
from server_process import Answer
from stand_in_engine import Service, service
from stand_in_voices import saved, send_form

pytestmark = pytest.mark.slow

RATE = 16_000


@pytest.fixture(scope="module")
def running(base_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = Settings(
        model=base_checkpoint, device="cpu", cpu_threads=1, codec_threads=1, slots=1, fastest_way="eager"
    )
    process = EngineProcess(settings)
    source = ModelSource("base", partial(process.load, base_checkpoint))
    with service(
        source=source,
        voices_directory=tmp_path_factory.mktemp("voices"),
        forget=process.forget,
        max_audio_seconds=0.8,
    ) as started:
        yield started
    process.stop()


def recording(seconds: float, *, hum: bool = False, level: float = 0.1, audio_format: str = "FLAC") -> str:
    count = int(seconds * RATE)
    noise = np.random.default_rng(0).normal(0, level, count).clip(-1, 1)
    samples = np.sign(np.sin(2 * np.pi * 110 * np.arange(count) / RATE)) * level if hum else noise
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=audio_format)
    return base64.b64encode(file.getvalue()).decode()


def speak(running: Service, **voice: object) -> Answer:
    body = {"input": "Go on.", "voice": voice, "response_format": "pcm", "seed": 3}
    return running.ask("POST", "/v1/audio/speech", body)


def sound(answer: Answer) -> npt.NDArray[np.int64]:
    assert answer.status == 200, answer.content
    return np.frombuffer(answer.content, "<i2").astype(np.int64)


def test_a_recording_speaks_and_another_one_differently(running: Service) -> None:
    voice = recording(2)
    first = sound(speak(running, audio=voice))
    assert len(first) > 1920
    again = sound(speak(running, audio=voice))
    assert len(again) == len(first)
    assert np.abs(again - first).max() <= 2
    for other in ({"audio": recording(2, hum=True)}, {"audio": voice, "text": "Some words."}):
        differs = sound(speak(running, **other))
        assert len(differs) != len(first) or np.abs(differs - first).max() > 100


def test_the_container_does_not_matter(running: Service) -> None:
    flac, wav = (sound(speak(running, audio=recording(2, audio_format=name))) for name in ("FLAC", "WAV"))
    assert len(flac) == len(wav)
    assert np.abs(flac - wav).max() <= 2


def test_a_saved_voice_sounds_like_its_recording_whether_it_was_heard_before_or_not(running: Service) -> None:
    """In context: the codec hears the recording once, and again when the voice was removed and came back."""
    content = base64.b64decode(recording(2))
    once = sound(speak(running, audio=recording(2), text="Some words."))
    voice = saved(running, content, ref_text="Some words.")
    backup = running.ask("GET", "/v1/audio/voices/export").content
    for _ in range(2):
        by_name = sound(speak(running, id="Ada"))
        assert len(by_name) == len(once)
        assert np.abs(by_name - once).max() <= 2
    assert running.ask("DELETE", f"/v1/audio/voices/{voice['id']}").status == 200
    assert speak(running, id="Ada").error["code"] == "unknown_voice"
    restored = running.ask("POST", "/v1/audio/voices/import", backup, Content_Type="application/octet-stream")
    assert restored.json["added"] == [voice["id"]]
    assert np.abs(sound(speak(running, id=voice["id"])) - once).max() <= 2
    assert running.ask("DELETE", f"/v1/audio/voices/{voice['id']}").status == 200


def test_words_that_the_model_cannot_take_are_refused_when_the_voice_is_saved(running: Service) -> None:
    answer = send_form(running, base64.b64decode(recording(59)), name="Long", ref_text="a1" * 2000)
    assert (answer.status, answer.error["code"]) == (400, "input_too_long")
    assert "text of the recording" in answer.error["message"]


@pytest.mark.parametrize(
    ("voice", "words"),
    [
        ({"audio": recording(0.5)}, ["0.5 s of speech", "at least 1 s"]),
        ({"audio": recording(2, level=0.0)}, ["silent", "microphone"]),
        ({"audio": recording(2, level=3.0)}, ["cut off at full scale", "lower level"]),
        ({"audio": recording(2), "text": "  "}, ["text of the recording is empty"]),
        ({"id": "vivian"}, ["base checkpoint", "recording"]),
    ],
)
def test_what_is_no_voice_is_said_in_words_that_help(
    running: Service, voice: dict[str, object], words: list[str]
) -> None:
    answer = speak(running, **voice)
    assert answer.status == 400
    assert answer.error["param"] in ("voice", "voice.audio", "model")
    for word in words:
        assert word in answer.error["message"]


def test_one_that_is_longer_than_the_limit_is_not_decoded_to_its_end(running: Service) -> None:
    answer = speak(running, audio=recording(70, level=0.001, audio_format="OGG"))
    assert (answer.status, answer.error["param"]) == (400, "voice.audio")
    assert "longer than 60 s" in answer.error["message"]
