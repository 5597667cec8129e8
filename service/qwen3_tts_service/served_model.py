"""One checkpoint of the process: loaded, spoken with, put aside when nobody asks for it, loaded again."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from . import capacity
from .admission import NO_KEY, Limits
from .capacity import Capacity
from .engine_stats import EngineStats
from .errors import DeviceFault, Draining, EngineError, NotReady, QueueFull, TTSError
from .loaded_engine import Description, Kind, LoadedEngine, Loader, SelfCheck, described
from .speech.formats import Output
from .speech.request import CloneReference, SpeechRequest, VoicePrompt
from .synthesis import Load, Speech, Synthesis

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

ModelState = Literal["unloaded", "loading", "warming", "ready"]

_WARM_UP_TEXT = "Ready to speak."
_WARM_UP_VOICE = "A calm voice."
WARM_UP_FRAMES = 250
_WARM_UP_S = 1800.0
#: Quieter than this is silence: a device that computes zeros.
_SILENCE_RMS = 1e-4
#: How often a request that waits for its model looks at its client and its deadline (seconds).
_LOOK_S = 0.1
_RETRY_AFTER_LOADING_S = 5.0


class ServedModel:
    """One checkpoint under its name in the API. Every method may be called from any thread.

    ``load`` builds the engine, ``kind`` is what it will be, where that is known before, ``on_fault`` hears of a
    lost device. At most ``limits.queue_size`` requests wait for the model to be loaded.
    """

    def __init__(
        self,
        name: str,
        *,
        load: Loader,
        limits: Limits,
        kind: Kind | None = None,
        on_fault: Callable[[DeviceFault], None] = lambda error: None,
    ) -> None:
        self.name = name
        self._kind = kind
        self.on_fault = on_fault
        self.self_check = SelfCheck()
        self.codec_way = self.codec_reason = self.prompt_way = ""
        self.capacity = Capacity(0)
        self.description: Description | None = None
        self.state: ModelState = "unloaded"
        self._load = load
        self._limits = limits
        self._changed = threading.Condition()
        self._loading: threading.Thread | None = None
        self._waiting = 0
        self._failure = ""
        self._engine: LoadedEngine | None = None
        self._synthesis: Synthesis | None = None
        self._last_busy = self._last_alive = time.monotonic()

    @property
    def kind(self) -> Kind | None:
        """What the checkpoint is for; None where nobody knows before its first load."""
        return self.description or self._kind

    def come_up(
        self,
        *,
        on_state: Callable[[ModelState], None] = lambda state: None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load, speak one sentence; then it is ready. Blocks for up to minutes.

        Raises what the loader raises, and EngineError for a first sentence that is no sound.
        """
        started = time.monotonic()
        try:
            self._become("loading", on_state)
            built = self._load(self.on_fault)
            engine, self.self_check = built.engine, built.self_check
            self.codec_way, self.codec_reason = built.codec_way, built.codec_reason
            self.prompt_way = built.prompt_way
            loaded = time.monotonic()
            self._become("warming", on_state)
            self.description = described(engine)
            self._engine = engine
            _warm_up(engine, give_up)
            self.capacity = self._capacity_of(engine, give_up)
        except BaseException:
            self._engine = None
            self._become("unloaded", on_state)
            raise
        logger.info(
            "%s is ready: %s on %s in %s, %s, loaded in %.1f s, warm after %.1f s, %d streams of %d slots%s",
            self.name,
            self.description.model_type,
            self.description.device,
            self.description.dtype,
            ", ".join(sorted(set(engine.ways().values()))),
            loaded - started,
            time.monotonic() - loaded,
            self.capacity.streams,
            engine.slots,
            "".join(f"; {count} at a time: {speed:.2f} s/s" for count, speed in self.capacity.speeds.items()),
        )
        if engine.synthetic:
            logger.warning("%s has random weights: it speaks noise, not language", self.name)
        self._last_busy = self._last_alive = time.monotonic()
        self._synthesis = Synthesis(
            engine, limits=self._limits, streams=self.capacity.streams, on_fault=self.on_fault
        )
        self._become("ready", on_state)

    def speak(
        self,
        request: SpeechRequest,
        *,
        output: Output,
        timeout_s: float,
        client: str = NO_KEY,
        gone: Callable[[], bool] = lambda: False,
    ) -> Speech:
        """As :meth:`Synthesis.speak`; loads the model first when it is not. Also raises NotReady."""
        return self._with_synthesis(
            lambda synthesis, left_s: synthesis.speak(
                request, output=output, timeout_s=left_s, client=client, gone=gone
            ),
            timeout_s,
            gone,
        )

    def listen(
        self,
        recording: CloneReference,
        *,
        timeout_s: float,
        client: str = NO_KEY,
        gone: Callable[[], bool] = lambda: False,
    ) -> VoicePrompt:
        """As :meth:`Synthesis.listen`; loads the model first when it is not. Also raises NotReady."""
        return self._with_synthesis(
            lambda synthesis, left_s: synthesis.listen(recording, timeout_s=left_s, client=client, gone=gone),
            timeout_s,
            gone,
        )

    def _with_synthesis(
        self, use: Callable[[Synthesis, float], _Result], timeout_s: float, gone: Callable[[], bool]
    ) -> _Result:
        deadline = time.monotonic() + timeout_s
        while True:
            synthesis = self._loaded(deadline, gone)
            try:
                return use(synthesis, deadline - time.monotonic())
            except Draining:
                # Either the process goes down, or the model was put aside between those two lines.
                if synthesis is self._synthesis:
                    raise

    @property
    def load(self) -> Load:
        """How many speak and wait; no slots while it is not loaded."""
        synthesis = self._synthesis
        return synthesis.load if synthesis else Load(slots=0, streams=0, speaking=0, waiting=self._waiting)

    def ways(self) -> Mapping[int, str]:
        """As the engine's; empty while it is not loaded."""
        engine = self._engine
        return engine.ways() if engine is not None else {}

    def reasons(self) -> Mapping[int, str]:
        """As the engine's; empty while it is not loaded."""
        engine = self._engine
        return engine.reasons() if engine is not None else {}

    def stats(self) -> EngineStats | None:
        """What the engine counts; None while there is none, and where it is no frame loop."""
        engine = self._engine
        return engine.stats() if engine is not None else None

    def drain(self) -> None:
        """Take no new work."""
        if synthesis := self._synthesis:
            synthesis.room.close()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until nothing waits or speaks; false when ``timeout_s`` seconds were not enough."""
        synthesis = self._synthesis
        return synthesis is None or synthesis.room.wait_until_idle(timeout_s)

    def close(self) -> None:
        """Let the engine and its memory go. Nothing is being spoken."""
        # It goes first: a request that finds none loads the model again.
        self._synthesis = None
        engine, self._engine = self._engine, None
        self._become("unloaded", lambda state: None)
        if engine is not None:
            engine.close()
        del engine
        gc.collect()

    def look(self, *, keepalive_s: float, unload_after_s: float) -> None:
        """Called often: keeps an idle device awake, and puts an idle model aside. 0 turns either off."""
        synthesis = self._synthesis
        if synthesis is None:
            return
        now = time.monotonic()
        load = synthesis.load
        if load.speaking or load.waiting:
            self._last_busy = self._last_alive = now
        elif unload_after_s and now - self._last_busy > unload_after_s:
            self._put_aside(synthesis)
        elif keepalive_s and now - self._last_alive > keepalive_s:
            self._keep_alive(synthesis)
            self._last_alive = time.monotonic()

    def _capacity_of(self, engine: LoadedEngine, give_up: Callable[[], bool]) -> Capacity:
        if self._limits.streams:
            return Capacity(min(self._limits.streams, engine.slots))
        return capacity.measure(engine, _sentence(engine, max_frames=1), give_up=give_up)

    def _loaded(self, deadline: float, gone: Callable[[], bool]) -> Synthesis:
        with self._changed:
            if self._synthesis is not None:
                return self._synthesis
            if self._waiting > self._limits.queue_size:
                raise QueueFull(
                    f"{self._waiting} requests wait for {self.name} to be loaded: try again later",
                    retry_after_s=_RETRY_AFTER_LOADING_S,
                )
            if self._loading is None:
                self._failure = ""
                self._loading = threading.Thread(target=self._load_now, name="loader", daemon=True)
                self._loading.start()
            self._waiting += 1
            try:
                while self._synthesis is None:
                    self._changed.wait(_LOOK_S)
                    late = time.monotonic() > deadline
                    if self._failure or late or gone():
                        raise NotReady(
                            f"{self.name} is not loaded: {self._failure or 'it still loads, try again'}",
                            retry_after_s=_RETRY_AFTER_LOADING_S,
                        )
                return self._synthesis
            finally:
                self._waiting -= 1

    def _load_now(self) -> None:
        failure = ""
        try:
            self.come_up()
        except TTSError as error:
            failure = error.message
        except Exception as error:
            # Whatever a library raises: who waits is told, and the next request tries again.
            logger.exception("%s did not come up", self.name)
            failure = f"{type(error).__name__}: {error}"
        with self._changed:
            self._failure = " ".join(failure.split())
            self._loading = None
            self._changed.notify_all()
        if failure:
            logger.error("cannot load %s: %s", self.name, self._failure)

    def _put_aside(self, synthesis: Synthesis) -> None:
        if not synthesis.room.close_when_idle():
            return
        self.close()
        logger.info("%s is put aside after idling; the next request loads it again", self.name)

    def _keep_alive(self, synthesis: Synthesis) -> None:
        if (engine := self._engine) is None:
            return
        speech = synthesis.speak(_sentence(engine, max_frames=1), output=Output("pcm"), timeout_s=_WARM_UP_S)
        try:
            for _ in speech:
                pass
        finally:
            speech.close()

    def _become(self, state: ModelState, on_state: Callable[[ModelState], None]) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()
        on_state(state)


def _sentence(engine: LoadedEngine, max_frames: int) -> SpeechRequest:
    """The first sentence, for whatever kind of checkpoint it is."""
    request = SpeechRequest(text=_WARM_UP_TEXT, seed=0, max_frames=max_frames)
    if engine.model_type == "base":
        # Any sound has a voice that can be taken from it.
        hum = 0.1 * np.sin(2 * np.pi * 120 * np.arange(3 * engine.sample_rate) / engine.sample_rate)
        return replace(request, clone=CloneReference(hum.astype(np.float32), engine.sample_rate))
    if engine.speakers:
        return replace(request, voice=engine.speakers[0])
    return replace(request, instructions=_WARM_UP_VOICE)


def _warm_up(engine: LoadedEngine, give_up: Callable[[], bool]) -> None:
    utterance = engine.open(
        _sentence(engine, WARM_UP_FRAMES), deadline=time.monotonic() + _WARM_UP_S, cancelled=give_up
    )
    waveform = np.concatenate([np.zeros(0, np.float32), *utterance])
    if not len(waveform) or not np.isfinite(waveform).all():
        raise EngineError("the warm-up sentence is not sound: it is empty or holds NaN or infinity")
    if float(np.sqrt(np.mean(np.square(waveform)))) < _SILENCE_RMS:
        raise EngineError("the warm-up sentence is silent")
