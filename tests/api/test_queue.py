"""Many clients, few slots: the queue in front of the engine, over real connections."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import socket
from collections.abc import Iterator

import pytest

from qwen3_tts_service.errors import DeviceFault
from server_process import wait_for
from stand_in_engine import Service, service


@pytest.fixture
def small() -> Iterator[Service]:
    with service(queue_size=2) as running:
        yield running


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(80) as executor:
        yield executor


def waiting(running: Service) -> int:
    return running.lifecycle.main.load.waiting


def occupy(
    running: Service, pool: concurrent.futures.ThreadPoolExecutor, *texts: str
) -> list[concurrent.futures.Future[object]]:
    """The first text runs and does not end, the others wait in this order."""
    running.engine.go.clear()
    futures = []
    for number, text in enumerate(texts):
        futures.append(pool.submit(running.speak, text))
        wait_for(lambda: running.engine.begun, "the first request runs")
        wait_for(lambda n=number: waiting(running) == n, f"{number} requests wait")
    return futures


def test_one_too_many_is_told_when_to_return_and_health_still_answers(
    small: Service, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    futures = occupy(small, pool, "a", "b", "c")
    refused = small.speak("d")
    assert (refused.status, refused.error["code"]) == (429, "queue_full")
    assert refused.error["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1
    assert small.ask("GET", "/health").status == 200
    assert small.ask("GET", "/ready").status == 200
    assert small.ask("GET", "/v1/models").status == 200
    small.engine.go.set()
    assert [future.result(10).status for future in futures] == [200, 200, 200]
    assert small.engine.spoken == ["a", "b", "c"]


def test_first_come_first_served(pool: concurrent.futures.ThreadPoolExecutor) -> None:
    texts = [f"number {n}" for n in range(8)]
    with service(queue_size=8) as running:
        futures = occupy(running, pool, *texts)
        running.engine.go.set()
        concurrent.futures.wait(futures, 10)
        assert running.engine.spoken == texts


def test_a_deadline_ends_who_runs_and_who_waits(pool: concurrent.futures.ThreadPoolExecutor) -> None:
    with service(queue_size=2, request_timeout_s=0.5) as running:
        answers = [future.result(10) for future in occupy(running, pool, "a", "b")]
        assert [answer.status for answer in answers] == [504, 504]
        assert {answer.error["code"] for answer in answers} == {"deadline_exceeded"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        running.engine.go.set()
        assert running.speak("c").status == 200


def half_client(port: int, text: str) -> socket.socket:
    """A client that sends its request and can hang up at any time."""
    body = json.dumps({"input": text, "voice": "vivian"}).encode()
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return client


def test_a_client_that_leaves_while_it_waits_frees_its_place(
    small: Service, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    futures = occupy(small, pool, "a", "b")
    leaver = half_client(small.port, "leaver")
    wait_for(lambda: waiting(small) == 2, "the leaver waits")
    assert small.speak("too many").status == 429
    leaver.close()
    wait_for(lambda: waiting(small) == 1, "its place is free", 3)
    futures.append(pool.submit(small.speak, "c"))
    wait_for(lambda: waiting(small) == 2, "the place is taken")
    small.engine.go.set()
    assert [future.result(10).status for future in futures] == [200, 200, 200]
    assert small.engine.spoken == ["a", "b", "c"]


def test_a_client_that_leaves_while_it_is_spoken_for_makes_room(
    small: Service, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    small.engine.go.clear()
    leaver = half_client(small.port, "leaver")
    wait_for(lambda: small.engine.begun == ["leaver"], "the leaver is spoken for")
    next_one = pool.submit(small.speak, "next")
    wait_for(lambda: waiting(small) == 1, "the next one waits")
    leaver.close()
    wait_for(lambda: small.engine.begun == ["leaver", "next"], "the next one's turn", 3)
    small.engine.go.set()
    assert next_one.result(10).status == 200
    assert small.engine.spoken == ["next"]


def test_sixty_four_clients_get_speech_or_a_429(pool: concurrent.futures.ThreadPoolExecutor) -> None:
    with service(queue_size=8) as running:
        running.engine.go.clear()
        futures = [pool.submit(running.speak, f"client {n}") for n in range(64)]
        wait_for(lambda: sum(future.done() for future in futures) == 64 - 9, "all but nine are refused")
        running.engine.go.set()
        statuses = [future.result(20).status for future in futures]
        assert sorted(statuses) == [200] * 9 + [429] * 55
        # And without anybody holding the engine: nothing but these two, and every 200 is whole speech.
        answers = list(pool.map(lambda n: running.speak(f"again {n}", response_format="pcm"), range(64)))
        assert {answer.status for answer in answers} <= {200, 429}
        assert {len(answer.content) for answer in answers if answer.status == 200} == {4800}


def test_an_unexpected_error_is_a_500_without_and_a_log_with_traceback(
    small: Service, caplog: pytest.LogCaptureFixture
) -> None:
    small.engine.fault = ZeroDivisionError("planted in the engine")
    with caplog.at_level(logging.INFO):
        answer = small.speak("private words")
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    assert b"planted" not in answer.content
    assert b"Traceback" not in answer.content
    assert caplog.text.count("Traceback (most recent call last)") == 1
    assert caplog.text.count("planted in the engine") == 1
    assert "private words" not in caplog.text
    small.engine.fault = None
    assert small.speak("and on").status == 200


def test_nan_is_an_error_and_no_noise(small: Service) -> None:
    small.engine.waveform = small.engine.waveform * float("nan")
    answer = small.speak("a")
    assert (answer.status, answer.error["code"]) == (500, "engine_error")


def test_a_lost_gpu_ends_the_service(small: Service) -> None:
    """The process' exit on ``broken`` is the start's: see test_process for the exit status."""
    small.engine.fault = DeviceFault("the language model failed: HIP error: an illegal memory access")
    assert (small.speak("a").status, small.states[-1].state) == (500, "broken")
    ready = small.ask("GET", "/ready")
    assert (ready.status, ready.json["status"]) == (503, "broken")
    assert "HIP error" in ready.json["reason"]
    assert small.speak("b").error["code"] == "not_ready"
    assert small.ask("GET", "/health").status == 200


def test_the_log_line_of_a_request_tells_all_but_its_words(
    small: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = small.speak("private words", seed=3)
        small.speak("private words", voice="private voice")
    [line] = [record.getMessage() for record in caplog.records if "audio=" in record.getMessage()]
    assert answer.headers["x-request-id"] in line
    assert "characters=13" in line
    assert "finish=stop" in line
    [refusal] = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert "400 unknown_voice param='voice'" in refusal
    assert "private" not in caplog.text
