"""An engine that a test stops and lets go: it has the real one's interface and computes a tone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen3_tts_service.admission import Limits
from qwen3_tts_service.api.app import create_app
from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.api.listener import listen
from qwen3_tts_service.api.server import Server
from qwen3_tts_service.config import Settings
from qwen3_tts_service.errors import (
    Cancelled,
    DeadlineExceeded,
    NotSupportedByModel,
    UnknownLanguage,
    UnknownVoice,
)
from qwen3_tts_service.lifecycle import Lifecycle, ModelSource, Status
from qwen3_tts_service.loaded_engine import Loaded
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME, CloneReference, SpeechRequest, VoicePrompt
from qwen3_tts_service.voices.store import VoiceStore
from qwen3_tts_service.weights import Weights
from server_process import Answer, ask, wait_for

RATE = 24_000
TONE = (0.2 * np.sin(2 * np.pi * 440 * np.arange(RATE // 10) / RATE)).astype(np.float32)


class StandInUtterance:
    """Yields the engine's pieces; ``left`` is the time when it gave its slot back."""

    def __init__(
        self, engine: StandInEngine, request: SpeechRequest, deadline: float, cancelled: Callable[[], bool]
    ) -> None:
        self._engine, self._request = engine, request
        self._deadline, self._cancelled = deadline, cancelled
        self._given_up = threading.Event()
        self.finish: str | None = None
        self.text_tokens = len(request.text.split())
        self.pieces = 0
        self.left: float | None = None
        self._waveform = self._speak()

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return self._waveform

    @property
    def made_frames(self) -> int:
        return self.pieces * len(self._engine.waveform) // SAMPLES_A_FRAME

    def cancel(self) -> None:
        self._given_up.set()
        self.left = self.left or time.monotonic()

    def _speak(self) -> Iterator[npt.NDArray[np.float32]]:
        engine = self._engine
        try:
            for piece in engine.pieces(self._request):
                while self.pieces == engine.hold_at and not engine.go.is_set():
                    self._look()
                    self._given_up.wait(0.01)
                self._look()
                if engine.fault is not None and self.pieces == engine.fault_at:
                    raise engine.fault
                self.pieces += 1
                yield piece
            engine.spoken.append(self._request.text)
            self.finish = engine.finish
        finally:
            self.left = self.left or time.monotonic()

    def _look(self) -> None:
        if self._given_up.is_set() or self._cancelled():
            raise Cancelled("told to stop")
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded("out of time", retry_after_s=1)


class StandInEngine:
    """Speaks ``waveform``, ``repeat`` times; waits for ``go`` before piece ``hold_at``.

    ``begun`` and ``spoken`` list the texts in order; ``fault`` is raised before piece ``fault_at``.
    """

    sample_rate = RATE
    speakers = ("vivian", "ryan")
    languages = ("auto", "english")
    model_type = "custom_voice"
    model_size = "tiny"
    synthetic = True
    device = "cpu"
    dtype = "torch.float32"

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.go = threading.Event()
        self.go.set()
        self.hold_at = 0
        self.begun: list[str] = []
        self.spoken: list[str] = []
        self.utterances: list[StandInUtterance] = []
        self.fault: Exception | None = None
        self.fault_at = 0
        self.finish = "stop"
        self.waveform = TONE
        self.repeat = 1
        self.closed = False

    def check(self, request: SpeechRequest) -> None:
        if (request.voice or "").lower() not in self.speakers:
            raise UnknownVoice(f"voice {request.voice!r}: choose from vivian, ryan", param="voice")
        if (request.language or "auto").lower() not in self.languages:
            raise UnknownLanguage(
                f"language {request.language!r}: choose from auto, english", param="language"
            )

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        raise NotSupportedByModel("a custom_voice checkpoint cannot clone a voice", param="clone")

    def open(
        self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool]
    ) -> StandInUtterance:
        self.check(request)
        self.begun.append(request.text)
        self.utterances.append(StandInUtterance(self, request, deadline, cancelled))
        return self.utterances[-1]

    def pieces(self, request: SpeechRequest) -> Iterable[npt.NDArray[np.float32]]:
        return [self.waveform] * self.repeat

    def ways(self) -> dict[int, str]:
        return {self.slots: "eager"}

    def reasons(self) -> dict[int, str]:
        return {self.slots: "no compiler"}

    def stats(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


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
        """A WAV unless ``fields`` say otherwise."""
        body = {"input": text, "voice": "vivian", "response_format": "wav", **fields}
        return self.ask("POST", "/v1/audio/speech", body)


@contextlib.contextmanager
def service(
    keys: KeyRing = KeyRing(),  # noqa: B008
    *,
    slots: int = 1,
    source: ModelSource | None = None,
    weights: Weights | None = None,
    usual_s: float | None = None,
    more: Sequence[ModelSource] = (),
    forget: Callable[[VoicePrompt], None] = lambda prompt: None,
    **settings: object,
) -> Iterator[Service]:
    """A service that is ready, or waits for ``weights``; ``settings`` override the defaults, ``source`` the engine."""
    chosen = Settings(model=Path("/nowhere/stand-in"), **settings)  # type: ignore[arg-type]
    engine = StandInEngine(slots)
    states: list[Status] = []
    lifecycle = Lifecycle(
        [source or ModelSource("stand-in", lambda on_fault: Loaded(engine), weights=weights), *more],
        limits=Limits(chosen.queue_size, chosen.max_queue_wait_s, chosen.streams_per_key, chosen.max_streams),
        on_change=states.append,
        keepalive_s=chosen.keepalive_s,
        unload_after_s=chosen.unload_after_s,
        usual_s=usual_s,
    )
    voices = VoiceStore(
        chosen.voices_path, most_voices=chosen.max_voices, most_bytes=chosen.max_body_bytes, on_removed=forget
    )
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(
        create_app(lifecycle, chosen, keys, voices),
        listener,
        requests=slots + chosen.queue_size,
        max_body_bytes=chosen.max_body_bytes,
        reader_timeout_s=chosen.reader_timeout_s,
        opens=keys.opens,
    )
    loop = threading.Thread(target=server.run)
    loop.start()
    lifecycle.start()
    if weights is None:
        wait_for(lambda: lifecycle.status.state in ("ready", "broken"), "readiness", 180 if source else 10)
        assert lifecycle.status.state == "ready", lifecycle.status
    else:
        wait_for(lambda: lifecycle.status.missing, "a look for the weights")
    engine.begun.clear()
    engine.spoken.clear()
    engine.utterances.clear()
    try:
        yield Service(port, lifecycle, engine, states)
    finally:
        engine.go.set()
        if weights is not None:
            # Its loader waits for them for good.
            lifecycle.drain(0)
        server.stop(5)
        loop.join(10)
        assert not loop.is_alive()
