"""Many texts in one request: each has its own result, and one that is wrong spoils no other."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_tts_service.errors import EngineError
from qwen3_tts_service.speech.request import SpeechRequest
from server_process import Answer, wait_for
from stand_in_engine import Service, service

DEFAULTS = {"voice": "vivian", "response_format": "wav"}


@pytest.fixture
def running() -> Iterator[Service]:
    with service(slots=2, queue_size=1) as started:
        yield started


def batch(running: Service, *items: object, defaults: dict[str, Any] = DEFAULTS) -> Answer:
    return running.ask("POST", "/v1/audio/speech/batch", {"items": list(items), "defaults": defaults})


def test_every_item_has_its_sound_in_order(running: Service) -> None:
    answer = batch(running, *({"input": f"text {number}", "seed": number} for number in range(12)))
    assert answer.status == 200
    results = json.loads(answer.content)["results"]
    assert [result["index"] for result in results] == list(range(12))
    assert [result["seed"] for result in results] == list(range(12))
    assert {result["status"] for result in results} == {200}
    assert {result["content_type"] for result in results} == {"audio/wav"}
    assert all(len(base64.b64decode(result["audio"])) == 4844 for result in results)
    assert sorted(running.engine.spoken) == sorted(f"text {number}" for number in range(12))


def test_a_wrong_item_is_told_and_the_others_speak(running: Service) -> None:
    answer = batch(
        running,
        {"input": "a"},
        {"input": ""},
        {"inptu": "b"},
        {"input": "c", "voice": "nobody"},
        {"input": "d"},
    )
    results = json.loads(answer.content)["results"]
    assert [result["status"] for result in results] == [200, 400, 400, 400, 200]
    assert [result["error"]["param"] for result in results[1:4]] == ["input", "inptu", "voice"]


def test_an_engine_that_fails_at_one_fails_at_one(running: Service) -> None:
    def pieces(request: SpeechRequest) -> list[object]:
        if request.text == "bad":
            raise EngineError("planted")
        if request.text == "worse":
            raise ZeroDivisionError("private")
        return [running.engine.waveform]

    running.engine.pieces = pieces  # type: ignore[method-assign,assignment]
    answer = batch(running, {"input": "bad"}, {"input": "good"}, {"input": "worse"})
    results = json.loads(answer.content)["results"]
    assert [result["status"] for result in results] == [500, 200, 500]
    assert "private" not in answer.content.decode()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": []}, "items"),
        ({"items": [{"input": "a"}] * 33}, "items"),
        ({"items": "a"}, "items"),
        ({"items": ["a"]}, "items"),
        ({}, "items"),
        ({"items": [{"input": "a"}], "defaults": []}, "defaults"),
        ({"items": [{"input": "a"}], "voice": "vivian"}, "voice"),
    ],
)
def test_a_wrong_batch_is_refused(running: Service, body: object, param: str) -> None:
    answer = running.ask("POST", "/v1/audio/speech/batch", body)
    assert answer.status == 400
    assert answer.error["param"] == param


def test_a_client_that_goes_ends_what_it_asked_for(running: Service) -> None:
    running.engine.go.clear()
    body = json.dumps({"items": [{"input": "a"}] * 20, "defaults": DEFAULTS}).encode()
    with socket.create_connection(("127.0.0.1", running.port), 10) as client:
        client.sendall(
            b"POST /v1/audio/speech/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        wait_for(lambda: running.lifecycle.main.load.speaking == 2, "both slots speak")
    wait_for(lambda: running.lifecycle.main.load.speaking == 0, "the slots are free")
    running.engine.go.set()
    assert running.speak("and on").status == 200
    assert running.engine.spoken == ["and on"]


def test_an_item_has_a_record_of_its_own(running: Service) -> None:
    answer = batch(running, {"input": "a"}, {"input": "b"})
    told = running.ask("GET", f"/v1/audio/speech/{answer.headers['x-request-id']}-1")
    assert json.loads(told.content)["finish_reason"] == "stop"
