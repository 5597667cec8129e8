"""Clients that vanish, stall, trickle and half-close, clocks that jump, an engine that dies: what comes next works."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_tts_service.api import server
from server_process import STEERED, ServerProcess, serving, wait_for
from stand_in_engine import Service, service

from .test_metrics import scraped
from .test_streaming import PIECE, TWO_FRAMES_S, Reader

pytestmark = pytest.mark.measuring

DAY_S = 86_400.0


@pytest.fixture
def running() -> Iterator[Service]:
    with service(slots=2, queue_size=4, reader_timeout_s=0.5) as started:
        yield started


def at_rest(running: Service) -> bool:
    load = running.lifecycle.main.load
    return not (load.speaking or load.waiting)


@pytest.mark.parametrize("while_it", ["speaks", "waits"])
def test_a_half_closed_client_counts_as_gone(running: Service, while_it: str) -> None:
    running.engine.repeat, running.engine.hold_at = 2, 1
    running.engine.go.clear()
    others = [Reader(running.port) for _ in range(0 if while_it == "speaks" else 2)]
    wait_for(lambda: len(running.engine.begun) == len(others), "the others speak")
    client = Reader(running.port)
    if others:
        wait_for(lambda: running.lifecycle.main.load.waiting == 1, "it waits")
    else:
        assert client.answer().read(len(PIECE)) == PIECE
    client.socket.shutdown(socket.SHUT_WR)
    half_closed = time.monotonic()
    if others:
        wait_for(lambda: running.lifecycle.main.load.waiting == 0, "its place is free", 2)
    else:
        left = wait_for(lambda: running.engine.utterances[0].left, "its slot is free", 2)
        assert left - half_closed < TWO_FRAMES_S
    running.engine.go.set()
    for other in others:
        assert other.answer().read() == 2 * PIECE
    wait_for(lambda: at_rest(running), "all places are free")
    assert scraped(running)["qwen3_tts_requests_total finish=cancelled model=stand-in"] == 1


class Crowd:
    """Clients that misbehave, each in a way that its number draws."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._left = threading.Lock()
        self.answers = 0

    def come(self, number: int) -> None:
        draw = random.Random(number)
        way = draw.choice([self._vanish, self._stall, self._trickle, self._half_close, self._behave])
        # A server that sheds its worst clients resets some connections: that is an answer, too.
        with contextlib.suppress(ConnectionError):
            way(draw)

    def _vanish(self, draw: random.Random) -> None:
        reader = Reader(self._port, "vanish")
        time.sleep(draw.uniform(0, 0.2))
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reader.hang_up()

    def _stall(self, draw: random.Random) -> None:
        reader = Reader(self._port, "stall", receive_buffer=4096)
        time.sleep(draw.uniform(0.5, 1.5))
        reader.hang_up()

    def _half_close(self, draw: random.Random) -> None:
        reader = Reader(self._port, "half-close")
        time.sleep(draw.uniform(0, 0.2))
        reader.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(http.client.HTTPException):
            reader.answer().read()
        reader.hang_up()

    def _trickle(self, draw: random.Random) -> None:
        body = json.dumps({"input": "trickle", "voice": "ryan", "response_format": "pcm"}).encode()
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", self._port)) as client:
            for byte in request[: draw.randint(10, len(request))]:
                client.send(bytes([byte]))
                time.sleep(0.002)

    def _behave(self, _draw: random.Random) -> None:
        response = Reader(self._port, "behave").answer()
        assert response.status in (200, 429)
        response.read()
        with self._left:
            self.answers += 1


def test_after_a_crowd_of_bad_clients_every_place_is_free_and_the_next_request_works(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEADER_S", 0.5)
    monkeypatch.setattr(server, "_BODY_STANDS_S", 0.5)
    running.engine.repeat = 100
    crowd = Crowd(running.port)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(crowd.come, number) for number in range(120)]:
            future.result(60)
    assert crowd.answers > 10
    wait_for(lambda: at_rest(running), "every place is free")
    assert all(utterance.left is not None for utterance in running.engine.utterances)
    running.engine.repeat = 2
    assert running.speak("next", response_format="pcm").content == 2 * PIECE
    assert running.ask("GET", "/ready").status == 200
    values = scraped(running)
    assert values.get("qwen3_tts_requests_total finish=error model=stand-in", 0) == 0
    assert values["qwen3_tts_requests_total finish=cancelled model=stand-in"] > 0


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_a_wall_clock_that_jumps_ends_nothing(
    running: Service, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    running.engine.repeat, running.engine.hold_at = 2, 1
    running.engine.go.clear()
    idle = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    idle.request("GET", "/health")
    assert idle.getresponse().read()
    streams = [Reader(running.port) for _ in range(2)]
    answers = [stream.answer() for stream in streams]
    assert [answer.read(len(PIECE)) for answer in answers] == [PIECE] * 2
    waiting = Reader(running.port)
    wait_for(lambda: running.lifecycle.main.load.waiting == 1, "one waits")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump_s)
    rounds = threading.Event()
    threading.Timer(3 * server._LOOP_S, rounds.set).start()
    assert rounds.wait(5)
    running.engine.go.set()
    assert [answer.read() for answer in answers] == [PIECE] * 2
    assert waiting.answer().read() == 2 * PIECE
    idle.request("GET", "/health")
    assert idle.getresponse().status == 200
    idle.close()


def test_a_wall_clock_that_stands_still_stops_no_deadline(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    running.engine.go.clear()
    body = {"input": "a", "voice": "ryan"}
    assert running.ask("POST", "/v1/audio/speech", body, X_Timeout="0.3").status == 504
    running.engine.go.set()
    running.engine.repeat = 100_000
    stalled = Reader(running.port, receive_buffer=4096)
    wait_for(lambda: len(running.engine.utterances) == 2, "it speaks")
    wait_for(lambda: running.engine.utterances[1].left, "who reads nothing is cut off", 5)
    stalled.hang_up()


def children(process: ServerProcess) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{process.process.pid}/task").iterdir():
        found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


@pytest.mark.slow
def test_an_engine_that_is_killed_in_mid_stream_breaks_the_stream_off_and_the_next_start_serves(
    tmp_path: Path,
) -> None:
    for end in ("killed", "asked to end"):
        with serving(tmp_path / "log", program=STEERED, model=tmp_path, queue_size=2) as started:
            started.wait_until_ready()
            if end == "killed":
                stream = Reader(started.port, "wait")
                answer = stream.answer()
                assert answer.read(len(PIECE)) == PIECE
                waiting = Reader(started.port, "a")
                [engine] = children(started)
                os.kill(engine, signal.SIGKILL)
                with pytest.raises(http.client.IncompleteRead):
                    answer.read()
                late = waiting.answer()
                assert late.status in (500, 503)
                assert json.loads(late.read())["error"]["code"] in ("device_fault", "not_ready")
                assert started.wait(20) == 1
                assert "was ended by SIGKILL" in started.log
                assert "Traceback" not in started.log
            else:
                body = {"input": "a", "voice": "ryan", "response_format": "pcm"}
                assert started.ask("POST", "/v1/audio/speech", body).content == PIECE
                started.process.send_signal(signal.SIGTERM)
                assert started.wait(20) == 0
