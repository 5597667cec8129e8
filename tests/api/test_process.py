"""The whole service as a process: start, speech, drain, exit."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import io
import json
import shutil
import signal
import socket
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server_process import STEERED, Answer, ServerProcess, serving, wait_for

pytestmark = pytest.mark.slow

SECRET = "correct-horse-battery-staple-0123456789"
TEXT = "A secret sentence that no log may show."


class NotifySocket:
    """systemd's side of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._messages: list[str] = []

    @property
    def messages(self) -> list[str]:
        while True:
            try:
                self._messages += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._messages


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("server") / "log", model=tiny_checkpoint) as process:
        yield process.wait_until_ready()


def speech(**fields: object) -> dict[str, object]:
    return {"input": "Hello there.", "voice": "vivian", "seed": 5, "response_format": "wav"} | fields


def test_wav_and_pcm_hold_the_same_sound(server: ServerProcess) -> None:
    wav = server.ask("POST", "/v1/audio/speech", speech(response_format="wav"))
    pcm = server.ask("POST", "/v1/audio/speech", speech(response_format="pcm"))
    assert (wav.status, pcm.status) == (200, 200)
    assert (wav.headers["content-type"], pcm.headers["content-type"]) == ("audio/wav", "audio/pcm")
    with wave.open(io.BytesIO(wav.content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        samples = file.readframes(file.getnframes())
    assert len(samples) == len(pcm.content) > 24_000 * 2 * 0.2
    assert any(samples)
    # Pieces are cut as the moment has it, and how a sum is cut changes its last bits.
    assert same_sound(samples, pcm.content)


def same_sound(one: bytes, other: bytes) -> bool:
    first, second = (np.frombuffer(sound, "<i2").astype(int) for sound in (one, other))
    return len(first) == len(second) and bool(np.abs(first - second).max() <= 2)


def test_a_seed_repeats_the_speech_and_is_told_when_drawn(server: ServerProcess) -> None:
    unseeded = speech()
    del unseeded["seed"]
    drawn = server.ask("POST", "/v1/audio/speech", unseeded)
    again = server.ask("POST", "/v1/audio/speech", speech(seed=int(drawn.headers["x-seed"])))
    assert same_sound(again.content[44:], drawn.content[44:])
    assert not same_sound(
        server.ask("POST", "/v1/audio/speech", speech(seed=6)).content[44:], drawn.content[44:]
    )


def test_what_is_known_at_the_end_follows_the_end(server: ServerProcess) -> None:
    answer = server.ask("POST", "/v1/audio/speech", speech(response_format="pcm"))
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "x-audio-seconds" not in answer.headers
    trailers = curl_trailers(server.port, speech(response_format="pcm"))
    assert float(trailers["x-audio-seconds"]) == pytest.approx(len(answer.content) / 48_000, abs=0.001)
    assert float(trailers["x-compute-seconds"]) > 0
    assert trailers["x-finish-reason"] in ("stop", "length")


def curl_trailers(port: int, body: dict[str, object]) -> dict[str, str]:
    """The header lines behind the body, as a client sees them that asks for them."""
    content = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE, close\r\n"
            + f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        received = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, _ = received.partition(b"\r\n\r\n")
    assert b"Trailer: X-Finish-Reason, X-Audio-Seconds, X-Compute-Seconds" in head
    _, _, tail = received.rpartition(b"\r\n0\r\n")
    lines = [line.partition(b": ") for line in tail.splitlines() if line]
    return {name.decode().lower(): value.decode() for name, _, value in lines}


def test_http_1_0_gets_it_whole(server: ServerProcess) -> None:
    """There the end of an answer without a length looks like a cut."""
    content = json.dumps(speech()).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(
            b"POST /v1/audio/speech HTTP/1.0\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        response = http.client.HTTPResponse(client)
        response.begin()
        received = response.read()
    assert int(response.headers["Content-Length"]) == len(received)
    assert response.headers["X-Finish-Reason"] in ("stop", "length")
    with wave.open(io.BytesIO(received)) as file:
        assert len(file.readframes(file.getnframes())) == 2 * file.getnframes()
        assert file.getnframes() / 24_000 == pytest.approx(
            float(response.headers["X-Audio-Seconds"]), abs=0.001
        )


def test_catalogue_names_the_checkpoint_and_says_noise(server: ServerProcess, tiny_checkpoint: Path) -> None:
    [model] = server.ask("GET", "/v1/models").json["data"]
    assert model["id"] == tiny_checkpoint.name
    assert model["synthetic"] is True
    assert "noise" in model["notice"]
    voices = [voice["id"] for voice in server.ask("GET", "/v1/audio/voices").json["voices"]]
    assert "vivian" in voices
    ready = server.ask("GET", "/ready").json
    assert (ready["status"], ready["device"], ready["dtype"]) == ("ready", "cpu", "float32")
    assert ready["self_check"]["status"] == "passed"
    assert set(ready["ways"].values()) == {"eager"}
    assert ready["codec"] == {"way": "eager", "why_not_faster": "compiling was not asked for"}


def test_instructions_are_for_models_that_follow_them(server: ServerProcess) -> None:
    plain = server.ask("POST", "/v1/audio/speech", speech())
    told = server.ask("POST", "/v1/audio/speech", speech(instructions="Whisper."))
    assert (plain.status, told.status) == (200, 200)
    assert not same_sound(told.content[44:], plain.content[44:])
    blank = server.ask("POST", "/v1/audio/speech", speech(instructions="  "))
    assert same_sound(blank.content[44:], plain.content[44:])


def test_its_life_from_loading_to_exit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One process, as systemd sees it: listens, loads, READY, speaks with a key, drains, leaves with 0."""
    notify = NotifySocket(tmp_path / "notify")
    keys = tmp_path / "keys"
    keys.write_text(f"# who: tests\nlaptop sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    bearer = f"Bearer {SECRET}"
    environment = {"NOTIFY_SOCKET": str(notify.path), "JOURNAL_STREAM": "8:1"}
    with serving(
        tmp_path / "log", environment, model=tiny_checkpoint, api_keys_file=keys, max_audio_seconds=10
    ) as server:
        assert server.ask("GET", "/health").json == {"status": "ok"}
        early = server.ask("GET", "/ready")
        assert early.status == 503
        assert early.json["status"] in ("loading", "warming")
        assert early.json["reason"]
        refused = server.ask("POST", "/v1/audio/speech", speech(), Authorization=bearer)
        assert (refused.status, refused.error["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert "READY=1" not in notify.messages

        server.wait_until_ready()
        wait_for(lambda: "READY=1" in notify.messages, "READY=1")
        states = [line for line in notify.messages if line.startswith(("STATUS=", "READY"))]
        assert [line.split(":")[0] for line in states] == ["STATUS=warming", "STATUS=ready", "READY=1"]
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in notify.messages)

        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
            stranger = server.ask("POST", "/v1/audio/speech", speech(), **header)
            assert (stranger.status, stranger.error["code"]) == (401, "invalid_api_key")
            assert stranger.headers["www-authenticate"] == "Bearer"
        assert server.ask("GET", "/v1/models").status == 401
        assert server.ask("GET", "/nothing").status == 401
        body = speech(input=TEXT)
        assert server.ask("POST", "/v1/audio/speech", body, Authorization=bearer).status == 200

        long = speech(input="One two three four five six seven eight. " * 30)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(server.ask, "POST", "/v1/audio/speech", long, Authorization=bearer)
            _let_it_begin(server, running)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "STOPPING=1" in notify.messages, "STOPPING=1")
            wait_for(lambda: server.ask("GET", "/ready").json["status"] == "draining", "draining")
            late = server.ask("POST", "/v1/audio/speech", speech(), Authorization=bearer)
            assert (late.status, late.error["code"]) == (503, "draining")
            assert int(late.headers["retry-after"]) >= 1
            assert server.ask("GET", "/health").status == 200
            whole = running.result(60)
        assert whole.status == 200
        assert len(whole.content) == 44 + 10 * 48_000
        assert server.wait() == 0

        log = server.log
    lines = log.splitlines()
    assert all(line[0] == "<" and line[1] in "34567" and line[2] == ">" for line in lines), log
    assert any(line.startswith("<4>") and "noise" in line for line in lines)
    assert "key=laptop" in log
    for hidden in (SECRET, TEXT, "secret sentence"):
        assert hidden not in log


def _let_it_begin(server: ServerProcess, running: concurrent.futures.Future[Answer]) -> None:
    """Long enough for a request to reach the engine, far too short for it to be finished."""
    time.sleep(0.5)
    assert server.ask("GET", "/health").status == 200
    assert not running.done()


def test_sigterm_while_loading_ends_with_0(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "first", model=tiny_checkpoint) as server:
        assert server.port
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert "Traceback" not in server.log


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_broken_checkpoint_ends_the_process_with_its_cause(
    tiny_checkpoint: Path, tmp_path: Path, damage: str
) -> None:
    model = tmp_path / "model"
    if damage == "cut off":
        shutil.copytree(tiny_checkpoint, model)
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    with serving(tmp_path / "log", {"JOURNAL_STREAM": "8:1"}, model=model) as server:
        assert server.wait() == 1
        causes = [line for line in server.log.splitlines() if line.startswith("<3>")]
    [cause] = causes
    assert str(model) in cause
    assert ("is not a directory" if damage == "missing" else "not a whole safetensors file") in cause


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"host": "0.0.0.0"}, ["0.0.0.0", "QWEN3_TTS_API_KEYS_FILE", "QWEN3_TTS_ALLOW_UNAUTHENTICATED"]),
        ({"api_keys_file": "/nowhere/keys"}, ["/nowhere/keys", "No such file"]),
        ({"host": "192.0.2.7", "allow_unauthenticated": "true"}, ["192.0.2.7", "QWEN3_TTS_HOST"]),
    ],
)
def test_it_does_not_start_with_wrong_settings(
    tmp_path: Path, settings: dict[str, str], names: list[str]
) -> None:
    with serving(tmp_path / "log", model=tmp_path, **settings) as server:
        assert server.wait() == 1
        assert "Traceback" not in server.log
        for name in names:
            assert name in server.log


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with serving(tmp_path / "log", model=tmp_path, port=port) as server:
            assert server.wait() == 1
            assert f"127.0.0.1 port {port}" in server.log
            assert "QWEN3_TTS_PORT" in server.log
            assert "Traceback" not in server.log


def test_the_settings_file_may_say_it_all(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Also: other machines may ask where a setting permits it, and the credential is found by itself."""
    file = tmp_path / "main.toml"
    file.write_text(f"model = {json.dumps(str(tmp_path / 'none'))}\nhost = '0.0.0.0'\n")
    (tmp_path / "api_keys").write_text(f"a sha256:{hashlib.sha256(b'k').hexdigest()}\n")
    environment = {"QWEN3_TTS_CONFIG": str(file), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    with serving(tmp_path / "log", environment, model=tiny_checkpoint) as server:
        assert "0.0.0.0" in wait_for(lambda: "listening" in server.log and server.log, "the address", 30)
        assert "1 API keys" in server.log
        assert server.ask("GET", "/v1/models").status == 401


def test_a_lost_gpu_ends_the_process_for_systemd_to_restart(tmp_path: Path) -> None:
    with serving(tmp_path / "log", program=STEERED, model=tmp_path) as server:
        server.wait_until_ready()
        answer = server.ask("POST", "/v1/audio/speech", speech(input="fault"))
        assert (answer.status, answer.error["code"]) == (500, "device_fault")
        assert server.wait(60) == 1
        assert "cannot serve: the codec failed: HIP error: out of luck" in server.log


def test_a_hung_gpu_ends_the_process_and_the_second_time_for_good(tmp_path: Path) -> None:
    """The engine's watchdog tells of it while the hung call goes on."""
    notify = NotifySocket(tmp_path / "notify")
    environment = {"STATE_DIRECTORY": str(tmp_path), "NOTIFY_SOCKET": str(notify.path)}
    for status in (1, 86):
        with serving(tmp_path / "log", environment, program=STEERED, model=tmp_path) as server:
            server.wait_until_ready()
            with concurrent.futures.ThreadPoolExecutor() as pool:
                stuck = pool.submit(server.ask, "POST", "/v1/audio/speech", speech(input="stuck"))
                # The socket's queue is ten messages long.
                assert notify.messages
                assert server.wait(60) == status
                answer = stuck.result(10)
                assert (answer.status, answer.error["code"]) == (500, "device_fault")
            assert "cannot serve: a frame took longer than 10 s" in server.log
            said = "the device was lost 2 times within ten minutes" in server.log
            assert said == (status == 86)
    assert "STATUS=stopped: the device was lost 2 times" in "\n".join(notify.messages)


@pytest.mark.parametrize("end", ["die", "freeze"])
def test_an_engine_process_that_dies_or_hangs_ends_the_service_with_its_cause(
    tmp_path: Path, end: str
) -> None:
    with serving(tmp_path / "log", program=STEERED, model=tmp_path, frame_deadline_s=0.5) as server:
        server.wait_until_ready()
        answer = server.ask("POST", "/v1/audio/speech", speech(input=end))
        assert (answer.status, answer.error["code"]) == (500, "device_fault")
        assert ("SIGKILL" if end == "die" else "it hangs") in answer.error["message"]
        assert server.wait(60) == 1
        assert f"cannot serve: {answer.error['message']}" in server.log


def test_the_drain_has_an_end(tmp_path: Path) -> None:
    with serving(tmp_path / "log", program=STEERED, model=tmp_path, drain_timeout_s=0.5) as server:
        server.wait_until_ready()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            stuck = pool.submit(server.ask, "POST", "/v1/audio/speech", speech(input="hang"))
            _let_it_begin(server, stuck)
            server.process.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
            # Told, if there is still time for that, and else cut off.
            if (cut_off := stuck.exception(10)) is None:
                assert (stuck.result().status, stuck.result().error["code"]) == (503, "draining")
            else:
                assert isinstance(cut_off, OSError | http.client.HTTPException)
        assert "the drain limit is over" in server.log


@pytest.mark.measuring
def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "log", program=STEERED, model=tmp_path) as server:
        server.wait_until_ready()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            lost = pool.submit(server.ask, "POST", "/v1/audio/speech", speech(input="hang"))
            _let_it_begin(server, lost)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.ask("GET", "/ready").json["status"] == "draining", "draining")
            server.process.send_signal(signal.SIGTERM)
            assert server.wait(3) == 128 + signal.SIGTERM
            assert isinstance(lost.exception(10), OSError | http.client.HTTPException)
