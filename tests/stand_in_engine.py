"""An engine that a test stops and lets go: it has the real one's interface and computes a tone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen3_tts_service.api.app import create_app
from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.api.server import Server, listen
from qwen3_tts_service.config import Settings
from qwen3_tts_service.errors import Cancelled, UnknownLanguage, UnknownVoice
from qwen3_tts_service.lifecycle import Lifecycle, SelfCheck, Status
from qwen3_tts_service.speech.request import SpeechRequest
from server_process import Answer, ask, wait_for

RATE = 24_000
TONE = (0.2 * np.sin(2 * np.pi * 440 * np.arange(RATE // 10) / RATE)).astype(np.float32)


class StandInEngine:
    """Speaks when ``go`` is set. ``begun`` and ``spoken`` list the texts in order; ``fault`` is raised."""

    sample_rate = RATE
    speakers = ("vivian", "ryan")
    languages = ("auto", "english")
    model_type = "custom_voice"
    synthetic = True
    device = "cpu"
    dtype = "torch.float32"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun: list[str] = []
        self.spoken: list[str] = []
        self.fault: Exception | None = None
        self.waveform = TONE

    def check(self, request: SpeechRequest) -> None:
        if (request.voice or "").lower() not in self.speakers:
            raise UnknownVoice(f"voice {request.voice!r}: choose from vivian, ryan", param="voice")
        if (request.language or "auto").lower() not in self.languages:
            raise UnknownLanguage(
                f"language {request.language!r}: choose from auto, english", param="language"
            )

    def synthesize(
        self, request: SpeechRequest, *, should_stop: Callable[[], bool]
    ) -> npt.NDArray[np.float32]:
        self.check(request)
        self.begun.append(request.text)
        while not self.go.wait(0.01):
            if should_stop():
                raise Cancelled("told to stop")
        if self.fault is not None:
            raise self.fault
        self.spoken.append(request.text)
        return self.waveform


class Service:
    """The real application behind the real server, in this process, over a stand-in engine."""

    def __init__(self, port: int, lifecycle: Lifecycle, engine: StandInEngine, states: list[Status]) -> None:
        self.port = port
        self.lifecycle = lifecycle
        self.engine = engine
        self.states = states

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return ask(self.port, method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})  # type: ignore[arg-type]

    def speak(self, text: str, **fields: object) -> Answer:
        return self.ask("POST", "/v1/audio/speech", {"input": text, "voice": "vivian", **fields})


@contextlib.contextmanager
def service(keys: KeyRing = KeyRing(), **settings: object) -> Iterator[Service]:  # noqa: B008
    """A service that is ready; ``settings`` override the defaults."""
    chosen = Settings(model=Path("/nowhere/stand-in"), **settings)  # type: ignore[arg-type]
    engine = StandInEngine()
    states: list[Status] = []
    lifecycle = Lifecycle(
        load=lambda: engine,
        check=lambda engine: SelfCheck(),
        queue_size=chosen.queue_size,
        on_change=states.append,
    )
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(
        create_app(lifecycle, chosen, keys),
        listener,
        queue_size=chosen.queue_size,
        max_body_bytes=chosen.max_body_bytes,
    )
    loop = threading.Thread(target=server.run)
    loop.start()
    lifecycle.start()
    wait_for(lambda: lifecycle.status.state == "ready", "readiness of the stand-in")
    engine.begun.clear()
    engine.spoken.clear()
    try:
        yield Service(port, lifecycle, engine, states)
    finally:
        engine.go.set()
        server.stop(5)
        loop.join(10)
        assert not loop.is_alive()
