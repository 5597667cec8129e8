"""The real ``openai`` package against the real server: what an unmodified client gets."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import av
import httpx2
import numpy as np
import numpy.typing as npt
import openai
import pytest

from audio.waveforms import clicks
from stand_in_engine import RATE, Service, service

from .test_limits import KEYS

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
#: What a codec may add to the length of a stream, in seconds.
PADDING_S = 0.1


def tone(hertz: float) -> npt.NDArray[np.float32]:
    times = np.arange(RATE // 10) / RATE
    return (0.3 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


@pytest.fixture
def running() -> Iterator[Service]:
    with service(slots=2) as started:
        started.engine.waveform = tone(440)
        started.engine.repeat = 20
        yield started


@pytest.fixture
def client(running: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="none", base_url=f"http://127.0.0.1:{running.port}/v1", max_retries=0, timeout=20
    ) as made:
        yield made


def heard(content: bytes, audio_format: str) -> np.ndarray:
    """Samples at 24 kHz, by ffmpeg's decoders."""
    if audio_format == "pcm":
        return np.frombuffer(content, "<i2") / 32768
    with av.open(io.BytesIO(content)) as file:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frames = [made for frame in file.decode(audio=0) for made in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def is_the_tone(samples: np.ndarray) -> bool:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 18))
    return bool(abs(spectrum.argmax() * RATE / (1 << 18) - 440) < 2)


def test_its_default_is_an_mp3(client: openai.OpenAI) -> None:
    answer = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")
    assert answer.response.headers["content-type"] == "audio/mpeg"
    samples = heard(answer.content, "mp3")
    assert 2.0 <= len(samples) / RATE < 2.0 + PADDING_S
    assert is_the_tone(samples)


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.75])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_every_format_is_heard_at_every_speed(client: openai.OpenAI, audio_format: str, speed: float) -> None:
    answer = client.audio.speech.create(
        model="stand-in",
        voice="ryan",
        input="Hello.",
        response_format=audio_format,  # type: ignore[arg-type]
        speed=speed,
    )
    assert answer.response.headers["content-type"] == CONTENT_TYPES[audio_format]
    samples = heard(answer.content, audio_format)
    assert -0.001 <= len(samples) / RATE - 2 / speed < PADDING_S
    assert is_the_tone(samples)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_it_streams_every_format(running: Service, client: openai.OpenAI, audio_format: str) -> None:
    """Bytes are there while the engine has not made the rest, and the file is whole in the end."""
    running.engine.hold_at = 3
    running.engine.go.clear()
    with client.audio.speech.with_streaming_response.create(
        model="stand-in",
        voice="vivian",
        input="Hello.",
        response_format=audio_format,  # type: ignore[arg-type]
    ) as response:
        chunks = response.iter_bytes()
        content = next(chunks)
        assert running.engine.utterances[0].pieces <= 3
        running.engine.go.set()
        content += b"".join(chunks)
    assert len(heard(content, audio_format)) >= 2 * RATE


def test_it_streams_to_a_file(client: openai.OpenAI, tmp_path: Path) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="stand-in", voice="vivian", input="Hello.", response_format="opus"
    ) as response:
        response.stream_to_file(tmp_path / "speech.ogg")
    assert len(heard((tmp_path / "speech.ogg").read_bytes(), "opus")) == 2 * RATE


def test_our_errors_are_its_exceptions(running: Service, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.speech.create(model="stand-in", voice="vivian", input="Hello.", speed=9)
    assert (refused.value.param, refused.value.code) == ("speed", "invalid_value")
    assert "from 0.25 to 4" in refused.value.message
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="tts-2000", voice="vivian", input="Hello.")
    running.engine.fault = ZeroDivisionError("planted")
    with pytest.raises(openai.InternalServerError):
        client.audio.speech.create(model="stand-in", voice="vivian", input="Hello.")


def test_who_may_not_and_who_asks_too_often_hear_it_as_its_exceptions() -> None:
    with service(KEYS, rate_limit_per_key="1/minute") as running:
        asked = {"model": "stand-in", "voice": "vivian", "input": "Hello."}
        base_url = f"http://127.0.0.1:{running.port}/v1"
        for key, error in (("stranger", openai.AuthenticationError), ("kitchen", openai.RateLimitError)):
            with openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=20) as client:
                if key == "kitchen":
                    client.audio.speech.create(**asked)
                with pytest.raises(error):
                    client.audio.speech.create(**asked)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_nothing_clicks_where_pieces_and_parts_meet_and_a_planted_click_is_found(
    running: Service, client: openai.OpenAI, audio_format: str
) -> None:
    def found() -> list[float]:
        answer = client.audio.speech.create(
            model="stand-in",
            voice="vivian",
            input="One. Two. Three.",
            response_format=audio_format,  # type: ignore[arg-type]
            extra_body={"split": "sentence"},
        )
        samples = heard(answer.content, audio_format)
        assert len(samples) >= 3 * 2 * RATE
        # Where all of it begins and ends is no border.
        return clicks(samples[RATE // 10 : -RATE // 5], RATE)

    assert found() == []
    # A quarter of a wave is left over: each piece begins elsewhere than the one before it ended.
    running.engine.waveform = tone(442.5)
    assert len(found()) > 3 * 15


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "flac"])
def test_an_answer_that_breaks_off_raises(running: Service, client: openai.OpenAI, audio_format: str) -> None:
    """The container is not closed as if that had been all."""
    running.engine.fault, running.engine.fault_at = ZeroDivisionError("planted"), 5
    with pytest.raises(openai.APIConnectionError):
        client.audio.speech.create(
            model="stand-in",
            voice="vivian",
            input="Hello.",
            response_format=audio_format,  # type: ignore[arg-type]
        )
    # While it streams, its HTTP library's own error comes through.
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        client.audio.speech.with_streaming_response.create(
            model="stand-in",
            voice="vivian",
            input="Hello.",
            response_format=audio_format,  # type: ignore[arg-type]
        ) as response,
    ):
        response.read()


def test_the_mark_is_a_setting() -> None:
    def tags(content: bytes) -> list[str]:
        with av.open(io.BytesIO(content)) as file:
            return list(file.metadata.values())

    for marked in (True, False):
        with service(mark_ai_generated=marked) as running:
            answer = running.speak("Hello.", response_format="mp3")
            assert ("AI-generated speech" in tags(answer.content)) == marked


@pytest.mark.parametrize("audio_format", ["mp3", "flac", "wav"])
def test_a_client_of_http_1_0_is_told_the_length(running: Service, audio_format: str) -> None:
    """It gets all at once, so the front of the file tells how long it is: players need not guess."""
    body = json.dumps({"input": "a", "voice": "vivian", "response_format": audio_format})
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(
            "POST /v1/audio/speech HTTP/1.0\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    content = received.partition(b"\r\n\r\n")[2]
    with av.open(io.BytesIO(content)) as file:
        stream = file.streams.audio[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(2.0, abs=PADDING_S)
    assert len(heard(content, audio_format)) == 2 * RATE
