"""What Open WebUI, SillyTavern and wyoming_openai send, replayed as it is.

The requests in ``recorded_clients.json`` are written after what these clients' source builds (named there); the clients
themselves did not run. A client that finds no key sends ``Bearer`` and nothing, or none at all.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.lifecycle import ModelSource
from qwen3_tts_service.loaded_engine import Loaded
from server_process import Answer, ask
from stand_in_engine import Service, StandInEngine, service

KEY = "sk-0123456789abcdef"
RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded_clients.json").read_text())
REQUESTS = [(client, request) for client in RECORDED for request in client["requests"]]
#: What clients choose from that know OpenAI's voices only, or were not given the list.
OPENAI_VOICES = ("alloy", "echo", "fable", "onyx", "nova", "shimmer")


class Speakers(StandInEngine):
    """With the speakers of the published checkpoints."""

    speakers = ("vivian", "serena", "uncle_fu", "dylan", "eric", "ryan", "aiden", "ono_anna", "sohee")  # type: ignore[assignment]


@pytest.fixture(scope="module")
def engine() -> Speakers:
    return Speakers(slots=2)


@pytest.fixture(scope="module")
def keyless(engine: Speakers) -> Iterator[Service]:
    with service(source=ModelSource("stand-in", lambda on_fault: Loaded(engine))) as started:
        yield started


@pytest.fixture(scope="module")
def keyed(engine: Speakers) -> Iterator[Service]:
    ring = KeyRing((("client", hashlib.sha256(KEY.encode()).digest()),))
    source = ModelSource("stand-in", lambda on_fault: Loaded(engine))
    with service(ring, source=source) as started:
        yield started


def replay(server: Service, client: dict[str, Any], request: dict[str, Any], key: str | None) -> Answer:
    headers = client["headers"] | request.get("headers", {})
    if key is not None and request["keyed"]:
        headers["Authorization"] = f"Bearer {key}"
    return ask(server.port, request["method"], request["path"], request.get("body"), headers)


def is_satisfied(answer: Answer, request: dict[str, Any], engine: Speakers) -> None:
    """What the client does with the answer works."""
    wanted = request["answer"]
    if wanted == "nothing":
        assert answer.status == 404
        return
    assert answer.status == 200, answer.content
    if wanted == "json":
        assert answer.json == {"status": "ok"}
    elif wanted == "models":
        assert [model["id"] for model in answer.json["data"]] == ["stand-in"]
    elif wanted == "voices":
        names = {voice["id"]: voice["name"] for voice in answer.json["voices"]}
        assert {"vivian", "ryan", *OPENAI_VOICES} <= names.keys()
    else:
        assert answer.headers["content-type"] == wanted
        with av.open(io.BytesIO(answer.content)) as file:
            assert sum(frame.samples for frame in file.decode(audio=0)) > 0
        assert engine.spoken[-1] == request["body"]["input"]
        assert "warning" not in answer.headers


@pytest.mark.parametrize(
    ("client", "request_"), REQUESTS, ids=lambda value: value.get("client") or value["why"]
)
def test_what_it_sends_is_served(
    keyless: Service, engine: Speakers, client: dict[str, Any], request_: dict[str, Any]
) -> None:
    for key in ("none", "", None):
        is_satisfied(replay(keyless, client, request_, key), request_, engine)


@pytest.mark.parametrize(
    ("client", "request_"), REQUESTS, ids=lambda value: value.get("client") or value["why"]
)
def test_with_keys_what_carries_one_is_served(
    keyed: Service, engine: Speakers, client: dict[str, Any], request_: dict[str, Any]
) -> None:
    answer = replay(keyed, client, request_, KEY)
    if request_["keyed"] or request_["path"] == "/health":
        is_satisfied(answer, request_, engine)
        return
    # The client then has OpenAI's names, or takes the server for OpenAI's.
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("voice", OPENAI_VOICES)
def test_who_was_not_given_the_list_has_voices_that_speak(keyed: Service, voice: str) -> None:
    body = {"input": "Hello.", "voice": voice, "model": "tts-1"}
    assert keyed.ask("POST", "/v1/audio/speech", body, Authorization=f"Bearer {KEY}").status == 200
