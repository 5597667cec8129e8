"""``qwen3-tts serve`` as a process of its own on loopback, and clients that read its sound as it comes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..speech.request import SAMPLES_A_FRAME

#: Loading and compiling a large checkpoint.
_START_S = 900.0
_LOOK_S = 0.1
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+), ")
#: The ordinary server, whose engine process is observed. Speech does not end by itself there: the first sentence would
#: be as long as it may be, 20 s, and who measures makes requests of the measured length first.
_PROGRAM = (
    "import sys; from qwen3_tts_service import served_model; served_model.WARM_UP_FRAMES = 25; "
    "from qwen3_tts_service.engine_process import parent; parent.PROGRAM = ('-c', sys.argv.pop()); "
    "from qwen3_tts_service.cli import main; main(['serve'])"
)
_ENGINE_PROGRAM = (
    "from qwen3_tts_service.bench.observation import install; install({!r}); "
    "from qwen3_tts_service.engine_process.child import main; main()"
)
#: 16-bit mono.
_BYTES_A_SAMPLE = 2
FIRST_SOUND_BYTES = SAMPLES_A_FRAME * _BYTES_A_SAMPLE
_READ_BYTES = 1 << 14


@dataclass(frozen=True)
class Heard:
    """One request as its client saw it: seconds to the first 1,920 samples and to the end, frames of sound."""

    first_s: float
    whole_s: float
    frames: float


class Ear:
    """A client that may be told to leave. ``first_at``: when it had its first 1,920 samples, by ``time.monotonic``."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        self.leaves = threading.Event()


class Server:
    """A running service. ``settings`` are those of the service, by their names in lower case."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self.frame_times = folder / "frame_times"
        self.frame_times.touch()
        self._log = folder / "server.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QWEN3_TTS_")}
        for name in ("NOTIFY_SOCKET", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"):
            kept.pop(name, None)
        own = {f"QWEN3_TTS_{name.upper()}": str(value) for name, value in settings.items()}
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, _ENGINE_PROGRAM.format(str(self.frame_times))],
                env=kept | own | {"PYTHONPATH": path.rstrip(os.pathsep)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.port = 0

    @property
    def pid(self) -> int:
        """The server's process; its child is the engine's."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Block until it speaks. Raises EngineError with the end of its log when it does not come up."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            log = self._log.read_text(encoding="utf-8", errors="replace")
            if self._process.poll() is not None:
                break
            if found := _LISTENING.search(log):
                self.port = int(found[1])
                # It listens before it serves, and may be on its way down: the log says why then.
                with contextlib.suppress(OSError):
                    if self.get("/ready")[0] == http.client.OK:
                        return
            time.sleep(_LOOK_S)
        raise EngineError(f"the server does not come up; its log ends with: {log[-1500:].strip()}")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def interrupt(self, body: dict[str, Any], patience_s: float) -> None:
        """A request that its client gives up after ``patience_s`` seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience_s)
        try:
            connection.request("POST", "/v1/audio/speech", json.dumps(body), _JSON)
            connection.getresponse().read()
        except TimeoutError:
            pass
        finally:
            connection.close()

    def listen(self, body: dict[str, Any], ear: Ear | None = None) -> Heard:
        """Ask for speech and read it as it comes, to its end or until ``ear`` leaves.

        Raises EngineError for anything but sound.
        """
        ear = ear or Ear()
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("POST", "/v1/audio/speech", json.dumps(body), _JSON)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise EngineError(f"the server answers {answer.status}: {answer.read()[:300].decode()}")
            received, first_s = 0, 0.0
            while not ear.leaves.is_set() and (part := answer.read1(_READ_BYTES)):
                received += len(part)
                if not first_s and received >= FIRST_SOUND_BYTES:
                    first_s = time.perf_counter() - started
                    ear.first_at = time.monotonic()
            return Heard(first_s, time.perf_counter() - started, received / FIRST_SOUND_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the answer broke off: {error!r}") from error
        finally:
            connection.close()

    def stop(self) -> None:
        """End it, politely first."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


_JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def serving(folder: Path, settings: dict[str, object]) -> Iterator[Server]:
    """A server that is ready, and gone at the end of the block however it ends."""
    server = Server(folder, settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
