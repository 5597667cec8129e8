"""``stream_format: sse``: sound as events, by hand and by the real ``openai`` client."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from qwen3_tts_service.errors import EngineError
from stand_in_engine import Service, service


@pytest.fixture
def running() -> Iterator[Service]:
    with service() as started:
        started.engine.repeat = 3
        yield started


def events(content: bytes) -> list[dict[str, Any]]:
    blocks = content.decode().split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3", "opus", "flac", "aac"])
def test_the_sound_in_events_is_the_sound_in_bytes(running: Service, audio_format: str) -> None:
    plain = running.speak("Two words.", response_format=audio_format, seed=1)
    answer = running.speak("Two words.", response_format=audio_format, seed=1, stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    *deltas, done = events(answer.content)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    sound = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    if audio_format == "opus":  # a stream's serial number is random
        assert len(sound) == len(plain.content)
    else:
        assert sound == plain.content
    assert done["type"] == "speech.audio.done"
    assert done["usage"] == {"input_tokens": 2, "output_tokens": 4, "total_tokens": 6}
    assert (done["finish_reason"], done["seed"], done["audio_seconds"]) == ("stop", 1, 0.3)


def test_events_leave_while_sound_is_made(running: Service) -> None:
    running.engine.hold_at = 1
    running.engine.go.clear()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    body = json.dumps(
        {"input": "a", "voice": "ryan", "response_format": "pcm", "stream_format": "sse", "speed": 1}
    )
    connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = json.loads(response.readline().removeprefix(b"data: "))
    assert len(base64.b64decode(first["audio"])) == 4800
    assert running.engine.utterances[0].pieces == 1
    running.engine.go.set()
    assert events(response.read().lstrip())[-1]["type"] == "speech.audio.done"


def test_a_late_failure_is_an_event_and_a_cut(running: Service) -> None:
    running.engine.fault, running.engine.fault_at = EngineError("planted"), 2
    with pytest.raises(http.client.IncompleteRead) as caught:
        running.speak("a", response_format="pcm", stream_format="sse")
    if caught.value.partial:
        assert events(caught.value.partial)[-1] == {
            "type": "error",
            "error": {"message": "planted", "type": "server_error", "param": None, "code": "engine_error"},
        }


def test_an_early_failure_has_a_true_status(running: Service) -> None:
    running.engine.fault = EngineError("planted")
    assert running.speak("a", stream_format="sse").status == 500


def test_the_openai_client_reads_them(running: Service) -> None:
    base = f"http://127.0.0.1:{running.port}/v1"
    with (
        openai.OpenAI(api_key="none", base_url=base, max_retries=0, timeout=20) as client,
        client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="alloy", input="Hello.", stream_format="sse", response_format="pcm"
        ) as response,
    ):
        lines = [line for line in response.iter_lines() if line]
    kinds = [json.loads(line.removeprefix("data: "))["type"] for line in lines]
    assert kinds == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
