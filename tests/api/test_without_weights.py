"""A server that was started before its weights were there: what it tells, and that it becomes ready by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arriving_weights import GB, ArrivingWeights
from server_process import STEERED, ServerProcess, serving, wait_for
from stand_in_engine import Service, StandInEngine, service


@pytest.fixture
def running(arriving: ArrivingWeights) -> Iterator[Service]:
    with service(weights=arriving.weights) as started:
        yield started


def ready(running: Service | ServerProcess) -> dict[str, Any]:
    told: dict[str, Any] = running.ask("GET", "/ready").json
    return told


def until(running: Service | ServerProcess, state: str) -> dict[str, Any]:
    told: dict[str, Any] = wait_for(lambda: (now := ready(running))["status"] == state and now, state)
    return told


def test_ready_tells_how_far_the_download_is(running: Service) -> None:
    answer = running.ask("GET", "/ready")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "200"
    assert answer.json["status"] == "downloading"
    assert answer.json["download"] == {
        "state": "downloading",
        "file": "model.safetensors",
        "bytes": 2 * GB,
        "total_bytes": 4 * GB,
        "bytes_per_second": 10_000_000,
        "remaining_seconds": 200,
    }
    assert running.ask("GET", "/health").status == 200


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/models", "/v1/audio/voices"])
def test_what_needs_the_model_is_refused_with_the_time_to_come_back(running: Service, path: str) -> None:
    answer = running.speak("Hello.") if path.endswith("speech") else running.ask("GET", path)
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "downloading", "200")
    assert "3 min 20 s left" in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "state", "word"),
    [
        ({"state": "failed", "error": "gave up: /var/cache/x/y is full"}, "download_failed", "gave up"),
        ({"beat": 0.0}, "download_silent", "has said nothing"),
    ],
)
def test_a_download_that_ended_is_told_as_that(
    running: Service, arriving: ArrivingWeights, fields: dict[str, Any], state: str, word: str
) -> None:
    arriving.tell(**fields)
    told = until(running, state)
    assert word in told["reason"]
    assert "start the download again" in told["reason"]
    answer = running.speak("Hello.")
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "no_weights", "30")
    # It goes on when the download does.
    arriving.tell()
    until(running, "downloading")


def test_no_answer_tells_where_things_lie(running: Service, arriving: ArrivingWeights) -> None:
    place = str(arriving.record.parent)
    arriving.tell(state="failed", error=f"{place}/x is full", file=f"{place}/model.safetensors")
    until(running, "download_failed")
    answers = [running.ask("GET", "/ready"), running.speak("Hello.")]
    arriving.state_file.write_text("{}")
    until(running, "download_silent")
    answers += [running.ask("GET", "/ready"), running.speak("Hello.")]
    arriving.state_file.unlink()
    until(running, "no_weights")
    answers += [running.ask("GET", "/ready"), running.speak("Hello.")]
    assert not [answer for answer in answers if place in answer.content.decode()]


def test_it_becomes_ready_by_itself(running: Service, arriving: ArrivingWeights) -> None:
    arriving.arrive()
    told = until(running, "ready")
    assert "download" not in told
    assert running.speak("Hello.").status == 200


def test_while_the_model_loads_ready_tells_for_how_long(
    arriving: ArrivingWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(weights=arriving.weights, usual_s=3600.0) as running:
        running.engine.go.clear()
        arriving.arrive()
        loading = until(running, "warming")["loading"]
        assert loading["total_bytes"] == arriving.weights.size()
        assert 0 <= loading["elapsed_seconds"] < 600
        assert loading["remaining_seconds"] == pytest.approx(3600 - loading["elapsed_seconds"], abs=0.2)
        running.engine.go.set()
        assert "loading" not in until(running, "ready")


def test_the_process_is_started_for_systemd_before_its_weights_are_there(
    arriving: ArrivingWeights, tmp_path: Path
) -> None:
    from api.test_process import NotifySocket

    notify = NotifySocket(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(notify.path), "STATE_DIRECTORY": str(tmp_path)}
    settings = {"model": arriving.record, "download_state": arriving.state_file}
    with serving(tmp_path / "log", environment, program=STEERED, **settings) as server:
        until(server, "downloading")
        wait_for(lambda: "READY=1" in notify.messages, "READY=1")
        assert any(line.startswith("STATUS=downloading: ") for line in notify.messages)
        assert ready(server)["model"] == "record"
        arriving.arrive()
        server.wait_until_ready()
        assert server.ask("POST", "/v1/audio/speech", {"input": "short", "voice": "vivian"}).status == 200
        assert StandInEngine.model_type == server.ask("GET", "/v1/models").json["data"][0]["type"]
        assert (tmp_path / "start-time.json").exists(), "for the next start's remaining time"
