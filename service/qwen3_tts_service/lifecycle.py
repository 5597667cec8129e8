"""From an empty process to one that has spoken, and down again.

The engine is loaded on a thread of its own, so that the server answers ``/health`` and ``/ready`` meanwhile.
Ready means: loaded, compared with the CPU where it runs on a GPU, and one sentence really spoken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from .errors import DeviceFault, EngineError, NotReady, TTSError
from .speech.request import SpeechRequest
from .synthesis import Engine, Speech, Synthesis

logger = logging.getLogger(__name__)

State = Literal["loading", "warming", "ready", "draining", "broken"]

_WARM_UP_TEXT = "Ready to speak."
_WARM_UP_VOICE = "A calm voice."
_WARM_UP_FRAMES = 250
#: Quieter than this is silence: a device that computes zeros.
_SILENCE_RMS = 1e-4


@dataclass(frozen=True)
class SelfCheck:
    """The comparison of the device with the CPU, as ``/ready`` shows it."""

    status: Literal["passed", "skipped"] = "skipped"
    #: The error that was measured and the largest that passes; None where nothing was compared.
    max_error: float | None = None
    tolerance: float | None = None


class LoadedEngine(Engine, Protocol):
    """An engine and what it says about its checkpoint."""

    @property
    def speakers(self) -> tuple[str, ...]: ...

    @property
    def languages(self) -> tuple[str, ...]: ...

    @property
    def model_type(self) -> str: ...

    @property
    def synthetic(self) -> bool: ...

    @property
    def device(self) -> object: ...

    @property
    def dtype(self) -> object: ...


@dataclass(frozen=True)
class Status:
    """One moment of the process."""

    state: State
    reason: str


@dataclass
class Lifecycle:
    """Owns the engine and the state of the process. Every method may be called from any thread.

    ``load`` builds the engine (slow), ``check`` compares its device with the CPU, ``on_change`` hears every
    new status.
    """

    load: Callable[[], LoadedEngine]
    check: Callable[[LoadedEngine], SelfCheck]
    queue_size: int
    on_change: Callable[[Status], None] = lambda status: None
    self_check: SelfCheck = field(default_factory=SelfCheck)
    status: Status = Status("loading", "the model is being loaded")
    _engine: LoadedEngine | None = None
    _synthesis: Synthesis | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Load and warm up on a thread; the status tells how it goes."""
        threading.Thread(target=self._come_up, name="loader", daemon=True).start()

    @property
    def engine(self) -> LoadedEngine:
        """The loaded engine. Raises NotReady with the reason before it is there."""
        if self._engine is None:
            raise NotReady(f"not ready: {self.status.reason}", retry_after_s=5.0)
        return self._engine

    @property
    def synthesis(self) -> Synthesis:
        """The way of one request. Raises NotReady with the reason before the warm-up sentence."""
        if self._synthesis is None or self.status.state in ("loading", "warming", "broken"):
            raise NotReady(f"not ready: {self.status.reason}", retry_after_s=5.0)
        return self._synthesis

    def speak(
        self,
        request: SpeechRequest,
        *,
        audio_format: str,
        timeout_s: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> Speech:
        """As :meth:`Synthesis.speak`, and NotReady. A DeviceFault also ends the process' service: broken."""
        try:
            return self.synthesis.speak(request, audio_format=audio_format, timeout_s=timeout_s, gone=gone)
        except DeviceFault as error:
            self._break(error.message)
            raise

    def drain(self, timeout_s: float) -> bool:
        """Take no new work, finish what was accepted; false when ``timeout_s`` seconds were not enough."""
        self._become("draining", "the service is going down")
        if self._synthesis is None:
            return True
        self._synthesis.close()
        return self._synthesis.wait_until_idle(timeout_s)

    def _come_up(self) -> None:
        started = time.monotonic()
        try:
            engine = self.load()
            loaded = time.monotonic()
            self._become("warming", "the model is loaded and speaks its first sentence")
            self.self_check = self.check(engine)
            self._engine = engine
            self._synthesis = Synthesis(engine, queue_size=self.queue_size)
            self._warm_up(engine)
        except TTSError as error:
            self._break(error.message)
        except Exception as error:
            # Whatever a library raises: the operator must find it, and systemd must see the process fail.
            logger.exception("the engine did not come up")
            self._break(f"{type(error).__name__}: {error}")
        else:
            logger.info(
                "ready: %s on %s in %s, loaded in %.1f s, warm after %.1f s",
                engine.model_type,
                engine.device,
                engine.dtype,
                loaded - started,
                time.monotonic() - loaded,
            )
            if engine.synthetic:
                logger.warning("this checkpoint has random weights: it speaks noise, not language")
            self._become("ready", f"running on {engine.device}")

    def _warm_up(self, engine: LoadedEngine) -> None:
        voices = engine.speakers
        request = SpeechRequest(
            text=_WARM_UP_TEXT,
            voice=voices[0] if voices else None,
            instructions=None if voices else _WARM_UP_VOICE,
            seed=0,
            max_frames=_WARM_UP_FRAMES,
        )
        waveform = engine.synthesize(request, should_stop=lambda: self.status.state == "draining")
        if not len(waveform) or not np.isfinite(waveform).all():
            raise EngineError("the warm-up sentence is not sound: it is empty or holds NaN or infinity")
        if float(np.sqrt(np.mean(np.square(waveform)))) < _SILENCE_RMS:
            raise EngineError("the warm-up sentence is silent")

    def _break(self, reason: str) -> None:
        if self.status.state == "draining":
            return
        # Libraries put whole paragraphs into their errors; the journal and /ready get one line.
        line = " ".join(reason.split())
        logger.error("cannot serve: %s", line)
        self._become("broken", line)

    def _become(self, state: State, reason: str) -> None:
        with self._lock:
            # On the way down nothing brings the process up again.
            if self.status.state == "draining":
                return
            self.status = Status(state, reason)
        self.on_change(self.status)
