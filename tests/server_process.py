"""``qwen3-tts serve`` as a real process on loopback, the way systemd starts it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qwen3_tts_service

START_S = 180.0
_SERVE = "from qwen3_tts_service.cli import main; main()"
#: What a program finds that was started with a socket (sd_listen_fds(3)).
_PASSED = "import os; os.dup2({}, 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
#: The real program, whose engine process has an engine that a request's text steers: no model is needed to leave.
STEERED = """
from qwen3_tts_service.cli import main
from qwen3_tts_service.engine_process import parent
parent.PROGRAM = ("-m", "steered_engine")
main()
"""
_PATH = f"{Path(qwen3_tts_service.__file__).parents[1]}:{Path(__file__).parent}"
_LISTENING = re.compile(r"listening on http://(\S+?):(\d+), ")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, which has OpenAI's four members and no other."""
        error: dict[str, Any] = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Answer:
    """One request on a connection of its own."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, content, sent)
        response = connection.getresponse()
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


def wait_for(condition: Any, what: str, timeout_s: float = 10.0) -> Any:
    """The first true value of ``condition()``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s} s")


class ServerProcess:
    """A running service. ``settings`` are QWEN3_TTS_* in lower case; the log goes to a file."""

    def __init__(
        self,
        log: Path,
        environment: dict[str, str] | None = None,
        *,
        program: str = _SERVE,
        listener: socket.socket | None = None,
        under: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """``listener`` is passed as systemd passes it; ``under`` is a command that starts the program."""
        self.log_file = log
        if listener is not None:
            program = _PASSED.format(listener.fileno()) + program
        # Compilation takes a minute and the measurement of streams seconds, and both have tests of their own.
        own = {"port": 0, "cpu_threads": 1, "device": "cpu", "fastest_way": "eager", "max_streams": 64}
        own |= settings
        base = {name: value for name, value in os.environ.items() if not name.startswith("QWEN3_TTS_")}
        for name in ("NOTIFY_SOCKET", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"):
            base.pop(name, None)
        variables = {f"QWEN3_TTS_{name.upper()}": str(value) for name, value in own.items()}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-c", program, "serve"],
                pass_fds=() if listener is None else (listener.fileno(),),
                env=base | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _PATH} | variables | (environment or {}),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        def listening() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log
            return _LISTENING.search(self.log)

        return int(wait_for(listening, "the line that says where it listens", START_S)[2])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return ask(self.port, method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def wait_until_ready(self) -> ServerProcess:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return self.ask("GET", "/ready").status == 200

        wait_for(ready, "readiness", START_S)
        return self

    def wait(self, timeout_s: float = START_S) -> int:
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def serving(
    log: Path, environment: dict[str, str] | None = None, *, program: str = _SERVE, **settings: Any
) -> Iterator[ServerProcess]:
    """A server that is gone at the end of the block, however the block ends."""
    server = ServerProcess(log, environment, program=program, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
        server.process.wait()
