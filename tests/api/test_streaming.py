"""Sound over real connections, while it is made: what clients see, and what they leave behind."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import logging
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

import pytest
import requests

from qwen3_tts_service.audio import pcm
from qwen3_tts_service.audio.encoders import wav_header
from qwen3_tts_service.errors import DeviceFault, EngineError
from server_process import wait_for
from stand_in_engine import TONE, Service, service

pytestmark = pytest.mark.measuring

PIECE = pcm.little_endian(pcm.samples(TONE))
#: Two frames of 80 ms, at the pace at which they are listened to.
TWO_FRAMES_S = 0.16


@pytest.fixture
def running() -> Iterator[Service]:
    with service(slots=2, queue_size=1) as started:
        yield started


class Reader:
    """A client that reads as it likes."""

    def __init__(self, port: int, text: str = "a", protocol: str = "1.1", receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        body = json.dumps({"input": text, "voice": "vivian", "response_format": "pcm"}).encode()
        self.socket.sendall(
            f"POST /v1/audio/speech HTTP/{protocol}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def answer(self) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return response

    def hang_up(self) -> float:
        """Close without a word; returns the time."""
        self.socket.close()
        return time.monotonic()


def test_the_first_sound_is_there_before_the_second_is_made(running: Service) -> None:
    running.engine.repeat, running.engine.hold_at = 3, 1
    running.engine.go.clear()
    reader = Reader(running.port)
    response = reader.answer()
    assert response.status == 200
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert response.headers["Content-Type"] == "audio/pcm"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert len(response.headers["X-Request-Id"]) == 16
    assert int(response.headers["X-Seed"]) >= 0
    assert response.read(len(PIECE)) == PIECE
    assert running.engine.utterances[0].pieces == 1
    running.engine.go.set()
    assert response.read() == 2 * PIECE


def test_the_status_line_waits_for_the_first_sound(running: Service) -> None:
    running.engine.go.clear()
    reader = Reader(running.port)
    wait_for(lambda: running.engine.begun, "it is being spoken")
    reader.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        reader.socket.recv(1)
    reader.socket.settimeout(20)
    running.engine.fault = EngineError("planted")
    running.engine.go.set()
    response = reader.answer()
    assert response.status == 500
    assert json.loads(response.read())["error"]["code"] == "engine_error"


def test_no_sound_at_all_is_an_empty_wav(running: Service) -> None:
    running.engine.repeat = 0
    answer = running.speak("a")
    assert (answer.status, answer.content) == (200, wav_header(24_000, 0))


def broken_after_two(running: Service, fault: Exception) -> None:
    running.engine.repeat, running.engine.fault, running.engine.fault_at = 4, fault, 2


@pytest.mark.parametrize("fault", [EngineError("planted"), ZeroDivisionError("planted")])
def test_a_client_sees_that_an_answer_broke_off(
    running: Service, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    broken_after_two(running, fault)
    with caplog.at_level(logging.INFO):
        with pytest.raises(http.client.IncompleteRead) as caught:
            running.speak("private words", response_format="pcm")
        assert caught.value.partial in (b"", 2 * PIECE)
        url = f"http://127.0.0.1:{running.port}/v1/audio/speech"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.post(url, json={"input": "a", "voice": "ryan"}, timeout=10)
        wait_for(lambda: running.lifecycle.main.load.speaking == 0, "the slots are free")
    assert caplog.text.count("finish=error") == 2
    assert "private" not in caplog.text
    # One traceback for what nobody expected, none for what an engine may raise.
    assert caplog.text.count("Traceback") == 2 * isinstance(fault, ZeroDivisionError)
    running.engine.fault = None
    assert running.speak("and on").status == 200


def test_curl_says_so_too(running: Service) -> None:
    broken_after_two(running, EngineError("planted"))
    url = f"http://127.0.0.1:{running.port}/v1/audio/speech"
    command = [
        "curl",
        "-sS",
        "--noproxy",
        "*",
        url,
        "--json",
        '{"input": "a", "voice": "ryan", "response_format": "wav"}',
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 18, "curl's word for a partial transfer"
    assert len(done.stdout) == 44 + 2 * len(PIECE)


def test_http_1_0_gets_a_true_status_for_a_late_failure(running: Service) -> None:
    broken_after_two(running, EngineError("planted"))
    assert Reader(running.port, protocol="1.0").answer().status == 500


def test_a_deadline_breaks_off_too() -> None:
    with service(request_timeout_s=0.5) as running:
        running.engine.repeat, running.engine.hold_at = 2, 1
        running.engine.go.clear()
        with pytest.raises(http.client.IncompleteRead):
            running.speak("a")
        metrics = running.ask("GET", "/metrics").content.decode()
        assert 'qwen3_tts_requests_total{finish="deadline",model="stand-in"} 1.0' in metrics


def test_a_device_that_is_lost_half_way_breaks_the_process(running: Service) -> None:
    broken_after_two(running, DeviceFault("HIP error: gone"))
    with pytest.raises(http.client.IncompleteRead):
        running.speak("a")
    assert running.states[-1].state == "broken"
    assert running.speak("b").error["code"] == "not_ready"


@pytest.mark.parametrize("pieces", [0, 1, 3], ids=lambda pieces: f"after {pieces}")
def test_whoever_hangs_up_frees_the_slot_within_two_frames(running: Service, pieces: int) -> None:
    running.engine.repeat, running.engine.hold_at = 5, pieces
    running.engine.go.clear()
    reader = Reader(running.port)
    if pieces:
        assert reader.answer().read(pieces * len(PIECE)) == pieces * PIECE
    wait_for(lambda: running.engine.utterances and running.engine.utterances[0].pieces == pieces, "it speaks")
    hung_up = reader.hang_up()
    utterance = running.engine.utterances[0]
    left = wait_for(lambda: utterance.left, "the slot is free", 2)
    assert left - hung_up < TWO_FRAMES_S
    wait_for(lambda: running.lifecycle.main.load.speaking == 0, "the place in front of it too", 1)
    assert running.engine.spoken == []


def test_whoever_resets_the_connection_while_sound_waits_for_it_frees_the_slot(running: Service) -> None:
    """Nothing of it is read, so the server is not reading either and only the reset tells."""
    running.engine.repeat = 100_000
    reader = Reader(running.port, receive_buffer=4096)
    standing_still(running)
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hung_up = reader.hang_up()
    left = wait_for(lambda: running.engine.utterances[0].left, "the slot is free", 2)
    assert left - hung_up < TWO_FRAMES_S


def standing_still(running: Service) -> int:
    """Wait until the first utterance makes nothing more; how many pieces it has made."""
    made = -1

    def still() -> bool:
        nonlocal made
        before, made = made, running.engine.utterances[0].pieces if running.engine.utterances else 0
        time.sleep(0.2)
        return made > 0 and before == made

    wait_for(still, "the engine is held back", 20)
    return made


def test_a_reader_that_stops_holds_its_own_slot_only_and_loses_nothing(running: Service) -> None:
    running.engine.repeat = 3000
    stopped = Reader(running.port, receive_buffer=4096)
    made = standing_still(running)
    # 14 MB of sound, of which the server and the kernel's buffers take a part.
    assert made * len(PIECE) < 8_000_000
    # Others are not disturbed.
    running.engine.repeat = 3
    assert len(running.speak("b", response_format="pcm").content) == 3 * len(PIECE)
    assert running.engine.utterances[0].pieces == made
    assert stopped.answer().read() == 3000 * PIECE


def test_a_reader_that_never_reads_on_is_cut_off() -> None:
    with service(reader_timeout_s=0.5) as running:
        running.engine.repeat = 100_000
        reader = Reader(running.port, receive_buffer=4096)
        standing_still(running)
        wait_for(lambda: running.engine.utterances[0].left, "the slot is free", 3)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            reader.answer().read()
        running.engine.repeat = 1
        assert running.speak("next").status == 200


def test_a_reader_that_takes_too_long_in_all_frees_the_slot() -> None:
    """It reads on, slowly, so that it never stands still for as long as ``reader_timeout_s``."""
    with service(request_timeout_s=1.0) as running:
        running.engine.repeat = 100_000
        begun = time.monotonic()
        reader = Reader(running.port, receive_buffer=4096)
        response = reader.answer()

        def free() -> bool:
            assert response.read(1000)
            return running.lifecycle.main.load.speaking == 0

        wait_for(free, "the slot is free", 15)
        assert 1.0 <= time.monotonic() - begun < 6


def test_sixty_four_streams_at_a_time() -> None:
    with service(slots=64, queue_size=0) as running, concurrent.futures.ThreadPoolExecutor(64) as pool:
        running.engine.repeat, running.engine.hold_at = 20, 10
        running.engine.go.clear()
        answers = [pool.submit(running.speak, str(number), response_format="pcm") for number in range(64)]
        wait_for(lambda: [u.pieces for u in running.engine.utterances] == [10] * 64, "all are half way", 20)
        begun = time.monotonic()
        assert running.ask("GET", "/health").status == 200
        assert time.monotonic() - begun < 2
        running.engine.go.set()
        assert {answer.result(20).content for answer in answers} == {20 * PIECE}
