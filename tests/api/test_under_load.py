"""The server with every place taken, and with connections that only take up room. Times are printed: run with -s."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen3_tts_service.api import server
from qwen3_tts_service.api.listener import listen
from qwen3_tts_service.speech.request import SpeechRequest
from server_process import wait_for
from stand_in_engine import TONE, Service, service

from .test_metrics import scraped
from .test_streaming import PIECE, Reader

pytestmark = pytest.mark.measuring

#: A piece of every stream so often, five times as fast as it is listened to, and for how long that is done (seconds).
PACE_S, LISTENED_S = 0.02, 2.0
STALLED = 64
UNREAD_BYTES = 256 * 1024


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(16) as executor:
        yield executor


def connections(port: int, count: int, words: bytes) -> list[socket.socket]:
    """So many clients that send ``words`` and nothing more."""
    clients = []
    for _ in range(count):
        clients.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        clients[-1].sendall(words)
    return clients


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def occupied(running: Service, pool: concurrent.futures.ThreadPoolExecutor, requests: int) -> None:
    """All slots and the whole queue are taken."""
    running.engine.go.clear()
    for number in range(requests):
        pool.submit(running.speak, str(number))
        wait_for(lambda n=number: sum(in_the_room(running)) == n + 1, "it is in")


def in_the_room(running: Service) -> tuple[int, int]:
    load = running.lifecycle.main.load
    return load.speaking, load.waiting


def test_short_answers_stay_short_when_everything_is_taken(
    pool: concurrent.futures.ThreadPoolExecutor,
) -> None:
    with service(slots=2, queue_size=8) as running, contextlib.ExitStack() as closing:
        occupied(running, pool, 10)
        slow = connections(running.port, 200, b"GET /health HTTP/1.1\r\nHost: ")
        for client in slow:
            closing.enter_context(client)
        figures = {}
        for what in ("/health", "/ready", "/metrics", "429"):
            times = []
            for _ in range(15):
                for client in slow[:20]:
                    client.sendall(b"x")
                begun = time.monotonic()
                status = (
                    running.speak("one more").status if what == "429" else running.ask("GET", what).status
                )
                times.append(time.monotonic() - begun)
                assert status == (429 if what == "429" else 200)
            figures[what] = statistics.median(times)
        running.engine.go.set()
        print({what: f"{1000 * seconds:.1f} ms" for what, seconds in figures.items()})
    assert figures.pop("429") < 0.2
    assert max(figures.values()) < 0.1


def test_with_too_many_connections_the_oldest_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    monkeypatch.setattr(server, "_IDLE_CONNECTIONS", 50)
    with service(slots=1, queue_size=1) as running, contextlib.ExitStack() as closing:
        # Speaks, before all others and for longer than they stay.
        running.engine.repeat, running.engine.hold_at = 2, 1
        running.engine.go.clear()
        speaking = Reader(running.port)
        response = speaking.answer()
        waiting = pool.submit(running.speak, "waits")
        wait_for(lambda: in_the_room(running) == (1, 1), "one speaks, one waits")
        idle = connections(running.port, 110, b"")
        for client in idle:
            closing.enter_context(client)
        assert running.ask("GET", "/health").status == 200
        wait_for(lambda: is_closed(idle[0]), "the oldest is closed")
        assert not is_closed(idle[-1])
        # Those that are kept can still ask.
        idle[-1].setblocking(True)
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[-1].recv(15) == b"HTTP/1.1 200 OK"
        running.engine.go.set()
        assert response.read() == 2 * PIECE
        assert waiting.result(10).status == 200


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("_IDLE_S", b""),
        ("_IDLE_S", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("_HEADER_S", b"POST /v1/audio/speech HTTP/1.1\r\nX: "),
        (
            "_BODY_STANDS_S",
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ),
    ],
)
def test_a_connection_without_a_whole_request_has_an_end(
    monkeypatch: pytest.MonkeyPatch, limit: str, words: bytes
) -> None:
    monkeypatch.setattr(server, limit, 0.3)
    with service() as running, connections(running.port, 1, words)[0] as client:

        def ended() -> bool:
            with contextlib.suppress(OSError):
                if limit == "_HEADER_S":
                    # Sending on does not help.
                    client.sendall(b"x")
                return client.recv(4096, socket.MSG_DONTWAIT) == b""
            return is_closed(client)

        wait_for(ended, "it is closed", 5)


def test_a_body_that_comes_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BODY_STANDS_S", 1.0)
    monkeypatch.setattr(server, "_HEADER_S", 0.5)
    with service() as running:
        body = b'{"input": "a", "voice": "ryan", "response_format": "pcm"}'
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        [client] = connections(
            running.port, 1, b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n" + head.encode()
        )
        with client:
            for start in range(0, len(body), 12):
                time.sleep(0.3)
                client.sendall(body[start : start + 12])
            assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_a_machine_that_is_lost_is_noticed_by_the_kernel_which_keeps_little() -> None:
    with listen("127.0.0.1", 0) as listener:
        server._set_up_connections(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            unanswered_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert unanswered_ms == 1000 * server._UNANSWERED_S
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * server._UNSENT_BYTES


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def gaps(reader: Reader, seconds: float) -> list[float]:
    """Between two pieces of a stream that is listened to for so long."""
    response, arrivals, until = reader.answer(), [], time.monotonic() + seconds
    while time.monotonic() < until:
        assert len(response.read(len(PIECE))) == len(PIECE)
        arrivals.append(time.monotonic())
    return list(np.diff(arrivals))


def paced(_request: SpeechRequest) -> Iterator[np.ndarray]:
    while True:
        time.sleep(PACE_S)
        yield TONE


def test_stalled_readers_are_ended_and_cost_the_others_nothing(
    pool: concurrent.futures.ThreadPoolExecutor,
) -> None:
    with service(slots=STALLED + 2, queue_size=0, reader_timeout_s=1.0) as running:
        engine = running.engine
        engine.pieces = paced  # type: ignore[method-assign, assignment]

        def listened() -> float:
            readers = [Reader(running.port, "paced") for _ in range(2)]
            heard = [pool.submit(gaps, reader, LISTENED_S) for reader in readers]
            found = float(np.percentile(np.concatenate([future.result(20) for future in heard]), 95))
            for reader in readers:
                reader.hang_up()
            return found

        alone = listened()
        wait_for(lambda: in_the_room(running)[0] == 0, "the places are free")
        before = resident_bytes()
        most = before
        over = threading.Event()

        def watch() -> None:
            nonlocal most
            while not over.wait(0.02):
                most = max(most, resident_bytes())

        threading.Thread(target=watch).start()
        begun = time.monotonic()
        stalled = [Reader(running.port, "stalled", receive_buffer=4096) for _ in range(STALLED)]
        beside = listened()
        wait_for(lambda: in_the_room(running)[0] == 0, "all of them are ended", 10)
        took = time.monotonic() - begun
        over.set()
        for reader in stalled:
            reader.hang_up()
        values = scraped(running)
    grown = most - before
    print(
        f"{STALLED} stalled readers: ended after {took:.1f} s, memory grew by {grown / 2**20:.1f} MiB; 95th "
        f"percentile of the others' gaps {1000 * alone:.1f} ms alone, {1000 * beside:.1f} ms beside them"
    )
    assert values["qwen3_tts_requests_total finish=cancelled model=stand-in"] == STALLED + 4
    assert grown < STALLED * UNREAD_BYTES
    assert took < LISTENED_S + 5
    assert beside < 2 * alone + 0.05
