"""What one client may take of the service: requests in a while, places, and time."""

from __future__ import annotations

import concurrent.futures
import hashlib
import time

import pytest

from qwen3_tts_service.api import rate_limit
from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.api.rate_limit import RateLimit
from qwen3_tts_service.errors import RateLimited
from server_process import Answer, ask, wait_for
from stand_in_engine import Service, service

from .test_metrics import scraped

KEYS = KeyRing(tuple((name, hashlib.sha256(name.encode()).digest()) for name in ("kitchen", "office")))


def speak(running: Service, key: str, text: str = "a", **headers: str) -> Answer:
    body = {"input": text, "voice": "vivian", "response_format": "wav"}
    return ask(running.port, "POST", "/v1/audio/speech", body, {"Authorization": f"Bearer {key}"} | headers)


def test_one_key_is_held_to_its_rate_and_the_other_is_not() -> None:
    with service(KEYS, rate_limit_per_key="2/minute") as running:
        assert [speak(running, "kitchen").status for _ in range(2)] == [200, 200]
        refused = speak(running, "kitchen")
        assert (refused.status, refused.error["code"]) == (429, "rate_limited")
        assert refused.error["type"] == "rate_limit_error"
        assert "2 requests in 60 s" in refused.error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert speak(running, "office").status == 200
        # Looking costs nothing.
        bearer = {"Authorization": "Bearer kitchen"}
        assert ask(running.port, "GET", "/v1/models", None, bearer).status == 200
        assert ask(running.port, "GET", "/metrics", None, bearer).status == 200
        assert b'qwen3_tts_refused_total{reason="rate_limited"} 1.0' in (
            ask(running.port, "GET", "/metrics", None, bearer).content
        )


def test_a_clock_that_is_put_back_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library counts by the wall clock."""
    limit = RateLimit("1/minute")
    limit.count("a")
    with pytest.raises(RateLimited):
        limit.count("a")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert rate_limit.time is time
    limit.count("a")
    with pytest.raises(RateLimited) as caught:
        limit.count("a")
    assert caught.value.retry_after_s <= 60


def test_a_key_that_floods_leaves_the_other_its_turns() -> None:
    """Its requests fill the queue; the other key's are taken in and are next."""
    with service(KEYS, queue_size=4) as running, concurrent.futures.ThreadPoolExecutor(8) as pool:
        running.engine.go.clear()
        flood = []
        for number in range(5):
            flood.append(pool.submit(speak, running, "kitchen", f"kitchen {number}"))
            wait_for(lambda n=number: running.lifecycle.main.load.waiting == n, f"{number} wait")
            wait_for(lambda: running.engine.begun, "one speaks")
        office = pool.submit(speak, running, "office", "office")
        pushed_out = flood[4].result(10)
        assert (pushed_out.status, pushed_out.error["code"]) == (429, "queue_full")
        running.engine.go.set()
        assert office.result(10).status == 200
        assert [future.result(10).status for future in flood[:4]] == [200] * 4
        assert running.engine.spoken == ["kitchen 0", "office", "kitchen 1", "kitchen 2", "kitchen 3"]


def test_one_key_holds_no_more_places_than_its_own() -> None:
    with (
        service(KEYS, slots=2, streams_per_key=1) as running,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        running.engine.go.clear()
        mine = [pool.submit(speak, running, "kitchen") for _ in range(2)]
        wait_for(lambda: running.lifecycle.main.load.waiting == 1, "the second waits beside a free slot")
        assert running.lifecycle.main.load.speaking == 1
        other = pool.submit(speak, running, "office")
        wait_for(lambda: running.lifecycle.main.load.speaking == 2, "another key has the free slot")
        running.engine.go.set()
        assert {future.result(10).status for future in [*mine, other]} == {200}


def test_who_waits_too_long_is_told_to_come_back() -> None:
    with (
        service(max_queue_wait_s=0.2) as running,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        running.engine.go.clear()
        first = pool.submit(running.speak, "a")
        wait_for(lambda: running.engine.begun, "the first speaks")
        late = running.speak("b")
        assert (late.status, late.error["code"]) == (429, "queue_wait")
        assert int(late.headers["retry-after"]) >= 1
        running.engine.go.set()
        assert first.result(10).status == 200
        values = scraped(running)
        assert values["qwen3_tts_refused_total reason=queue_wait"] == 1
        assert values["qwen3_tts_queue_wait_seconds_count model=stand-in"] == 1


@pytest.mark.parametrize("given", ["", "soon", "0", "-1", "nan", "inf", "1e999", "1,5"])
def test_a_timeout_that_is_no_time_is_refused(given: str) -> None:
    with service() as running:
        answer = speak(running, "-", **{"X-Timeout": given})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (
            400,
            "invalid_value",
            "X-Timeout",
        )
        assert running.engine.begun == []


def test_a_client_may_want_its_answer_sooner_and_not_later() -> None:
    with service(request_timeout_s=0.4) as running:
        running.engine.go.clear()
        took = {}
        for given in ("0.1", "1000"):
            began = time.monotonic()
            late = speak(running, "-", **{"X-Timeout": given})
            took[given] = time.monotonic() - began
            assert (late.status, late.error["code"]) == (504, "deadline_exceeded")
        assert took["0.1"] < took["1000"] < 10
        running.engine.go.set()
        assert speak(running, "-", **{"X-Timeout": "5"}).status == 200
