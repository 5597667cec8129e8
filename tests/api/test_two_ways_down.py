"""Out of rotation and back, down with every byte sent, and one process after the other on one socket."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from qwen3_tts_service.api.listener import inherited
from qwen3_tts_service.commands import drain
from qwen3_tts_service.errors import ConfigurationError
from server_process import STEERED, serving, wait_for
from stand_in_engine import TONE, service

#: What the steered engine speaks for "long", as pcm.
LONG = 40 * len(TONE) * 2
#: The same for "as it is heard": 20 s of sound in 20 s.
AS_IT_IS_HEARD = 200 * len(TONE) * 2


class Stream:
    """A request whose answer is read bit by bit."""

    def __init__(self, port: int, text: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({"input": text, "voice": "vivian", "response_format": "pcm"})
        self._connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})

    def begin(self) -> Stream:
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self._head = self._answer.read(100)
        return self

    def rest(self) -> int:
        """Bytes in all; raises IncompleteRead when the end is missing."""
        return len(self._head) + len(self._answer.read())


def bound() -> socket.socket:
    """A listening socket that outlives the processes which serve it, as a socket unit's does."""
    return socket.create_server(("127.0.0.1", 0))


def test_out_of_rotation_requests_are_still_served() -> None:
    with service() as running:
        running.lifecycle.withdraw()
        told = running.ask("GET", "/ready")
        assert (told.status, told.json["status"]) == (503, "draining")
        assert int(told.headers["retry-after"]) >= 1
        assert running.ask("GET", "/health").status == 200
        assert running.speak("Hello.").status == 200
        running.lifecycle.restore()
        assert running.ask("GET", "/ready").json["status"] == "ready"


def said(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(drain.command, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value), done.output


@pytest.mark.slow
def test_orders_reach_a_running_process(tmp_path: Path) -> None:
    """Keys are read again, rotation is left and joined, and the engine's process is not hit by the way."""

    def keys(**named: str) -> None:
        lines = [f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in named.items()]
        (tmp_path / "keys").write_text("".join(lines))

    def asks(key: str) -> int:
        return server.ask("GET", "/v1/models", Authorization=f"Bearer {key}").status

    keys(one="first")
    with serving(
        tmp_path / "log", program=STEERED, model=tmp_path, api_keys_file=tmp_path / "keys"
    ) as server:
        server.wait_until_ready()
        keys(two="second")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: asks("second") == 200, "the new key")
        assert asks("first") == 401
        (tmp_path / "keys").write_text("two second\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the 1 API keys stay as they were" in server.log, "what is wrong with the file")
        assert asks("second") == 200

        assert said("--pid", str(server.process.pid))[0] == 0
        wait_for(lambda: server.ask("GET", "/ready").status == 503, "503 for balancers")
        body = {"input": "Hello.", "voice": "vivian"}
        assert server.ask("POST", "/v1/audio/speech", body, Authorization="Bearer second").status == 200
        [child] = (
            (Path("/proc") / str(server.process.pid) / "task" / str(server.process.pid) / "children")
            .read_text()
            .split()
        )
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            subprocess.run(["kill", f"-{number.name}", child], check=True)
        assert said("--end", "--pid", str(server.process.pid))[0] == 0
        wait_for(lambda: server.ask("GET", "/ready").status == 200, "readiness")
        assert server.ask("POST", "/v1/audio/speech", body, Authorization="Bearer second").status == 200


def test_a_process_that_would_be_ended_by_the_order_is_spared() -> None:
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with pytest.raises(Exception, match=f"process {sleeping.pid} is no qwen3-tts server"):
            said("--pid", str(sleeping.pid))
        assert sleeping.poll() is None
    finally:
        sleeping.kill()
        sleeping.wait()
    with pytest.raises(Exception, match=f"process {sleeping.pid} is no qwen3-tts server"):
        said("--pid", str(sleeping.pid))


@pytest.mark.slow
def test_every_byte_of_a_stream_arrives_and_new_work_is_sent_away(tmp_path: Path) -> None:
    """A stream of 20 s; the service is told to go when it has run for 5 s."""
    with serving(tmp_path / "log", program=STEERED, model=tmp_path) as server:
        server.wait_until_ready()
        stream = Stream(server.port, "as it is heard").begin()
        time.sleep(5)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.ask("GET", "/ready").json["status"] == "draining", "the way down")
        late = server.ask("POST", "/v1/audio/speech", {"input": "Hello.", "voice": "vivian"})
        assert (late.status, late.error["code"]) == (503, "draining")
        assert int(late.headers["retry-after"]) >= 1
        assert stream.rest() == AS_IT_IS_HEARD
        assert server.wait() == 0


@pytest.mark.slow
def test_who_connects_meanwhile_is_answered_by_the_next_process(tmp_path: Path) -> None:
    with bound() as listener:
        port = listener.getsockname()[1]
        with serving(tmp_path / "one", program=STEERED, model=tmp_path, listener=listener) as first:
            stream = Stream(port, "long").begin()
            first.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "going down" in first.log, "the way down")
            waiting = Stream(port, "Hello.")
            assert stream.rest() == LONG
            assert first.wait() == 0
        # Nobody serves now, and nobody is refused.
        later = Stream(port, "Hello.")
        with serving(tmp_path / "two", program=STEERED, model=tmp_path, listener=listener) as second:
            assert waiting.begin().rest() == later.begin().rest() == len(TONE) * 2
            assert f"listening on http://127.0.0.1:{port}" in second.log
            second.process.send_signal(signal.SIGTERM)
            assert second.wait() == 0
        assert "finish=" in (tmp_path / "two").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not here"
)
def test_systemd_passes_its_socket(tmp_path: Path) -> None:
    with bound() as taken:
        port = taken.getsockname()[1]
    names = ["PATH", "PYTHONPATH", "OMP_NUM_THREADS", "QWEN3_TTS_MODEL", "QWEN3_TTS_DEVICE", "QWEN3_TTS_PORT"]
    under = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", *(f"-E{name}" for name in names)]
    with serving(tmp_path / "log", program=STEERED, model=tmp_path, under=under) as server:
        wait_for(lambda: "Listening on" in server.log, "systemd's socket")
        # It starts the service for this connection, which waits until the service is ready.
        assert Stream(port, "Hello.").begin().rest() == len(TONE) * 2
        assert f"listening on http://127.0.0.1:{port}" in server.log
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_several_sockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited() is None, "they were meant for another process"
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(ConfigurationError, match="LISTEN_FDS is '2': the socket unit"):
        inherited()
    assert not [name for name in os.environ if name.startswith("LISTEN_")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listener", "said"),
    [
        (lambda: socket.create_server(("0.0.0.0", 0)), "0.0.0.0 is reachable from other machines"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "does not listen for TCP"),
        (lambda: socket.socketpair()[0], "does not listen for TCP"),
    ],
    ids=["a network without keys", "a datagram socket", "a connection"],
)
def test_a_socket_that_does_not_fit_is_refused(
    tmp_path: Path, listener: Callable[[], socket.socket], said: str
) -> None:
    with listener() as passed, serving(tmp_path / "log", model=tmp_path, listener=passed) as server:
        assert server.wait() == 1
        assert said in server.log
        assert "Traceback" not in server.log
