"""From an empty process to one that has spoken, and down again.

Models are loaded on a thread of their own, so that the server answers ``/health`` and ``/ready`` meanwhile.
Ready means: loaded, compared with the CPU where it runs on a GPU, and one sentence really spoken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from .admission import NO_KEY, Limits
from .errors import DeviceFault, NotReady, TTSError, UnknownModel, shown
from .loaded_engine import Kind, Loader
from .served_model import ModelState, ServedModel
from .speech.formats import Output
from .speech.request import CloneReference, SpeechRequest, VoicePrompt
from .synthesis import Speech
from .weights import Missing, MissingState, Weights

logger = logging.getLogger(__name__)

State = Literal["loading", "warming", "ready", "draining", "broken"] | MissingState

#: How often idle models, and weights that are still to come, are looked at (seconds).
_LOOK_S = 1.0


@dataclass(frozen=True)
class ModelSource:
    """A model to serve: its name in the API, what builds its engine, and whether that happens at the start.

    ``kind``: what it will be, as its files say. ``weights``: what a model that is loaded at the start waits for.
    """

    name: str
    load: Loader
    at_start: bool = True
    kind: Kind | None = None
    weights: Weights | None = None


@dataclass(frozen=True)
class Status:
    """One moment of the process. ``fault``: broken because the device was lost. ``missing``: there are no weights."""

    state: State
    reason: str
    fault: bool = False
    missing: Missing | None = None


@dataclass(frozen=True)
class ComingUp:
    """How far the way from weights to ready is. ``size``: bytes of the weights; 0 where nobody knows."""

    elapsed_s: float
    #: What it took the last time; None where nobody knows.
    usual_s: float | None
    size: int


class Lifecycle:
    """Owns the models and the state of the process. Every method may be called from any thread.

    The first of ``sources`` is the one that is meant when a request names none. ``on_change`` hears every new
    status. ``limits`` hold for each model. ``keepalive_s`` and ``unload_after_s`` as in the settings; 0 is never.
    ``usual_s``: seconds from weights to ready, of an earlier time.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        limits: Limits,
        on_change: Callable[[Status], None] = lambda status: None,
        keepalive_s: float = 0.0,
        unload_after_s: float = 0.0,
        usual_s: float | None = None,
    ) -> None:
        self.status = Status("loading", "the model is being loaded")
        self.models = {
            source.name: ServedModel(
                source.name,
                load=source.load,
                limits=limits,
                kind=source.kind,
                on_fault=self.device_lost,
            )
            for source in sources
        }
        self._at_start = [source for source in sources if source.at_start]
        self._on_change = on_change
        self._keepalive_s = keepalive_s
        self._unload_after_s = unload_after_s
        self._lock = threading.Lock()
        self._withdrawn = False
        self._usual_s = usual_s
        self._loading_since = time.monotonic()
        #: Seconds from weights to ready; None before.
        self.came_up_in_s: float | None = None
        self.waited_for_weights = False

    def start(self) -> None:
        """Load and warm up on a thread; the status tells how it goes."""
        threading.Thread(target=self._come_up, name="loader", daemon=True).start()

    @property
    def readiness(self) -> Status:
        """What balancers are told: the status, or that they shall send nothing more although it is ready."""
        if self._withdrawn and self.status.state == "ready":
            return Status("draining", "taken out of rotation; requests are still served")
        return self.status

    @property
    def coming_up(self) -> ComingUp | None:
        """How far loading is; None while nothing is loaded, or everything."""
        if self.status.state not in ("loading", "warming"):
            return None
        size = sum(source.weights.size() for source in self._at_start if source.weights)
        return ComingUp(time.monotonic() - self._loading_since, self._usual_s, size)

    def refusal(self) -> NotReady:
        """Why nothing can be done yet, or any more."""
        if (missing := self.status.missing) is not None:
            return missing.refusal()
        return NotReady(f"not ready: {self.status.reason}", retry_after_s=5.0)

    def withdraw(self) -> None:
        """Tell balancers to send nothing more; what comes anyway is served."""
        self._rotate(withdrawn=True)

    def restore(self) -> None:
        """Tell balancers that it is there again: the end of :meth:`withdraw`."""
        self._rotate(withdrawn=False)

    def _rotate(self, *, withdrawn: bool) -> None:
        if self._withdrawn != withdrawn:
            self._withdrawn = withdrawn
            logger.info("taken out of rotation by order" if withdrawn else "back in rotation by order")
            self._on_change(self.readiness)

    @property
    def main(self) -> ServedModel:
        """The model that speaks when a request names none."""
        return next(iter(self.models.values()))

    def model(self, name: str | None) -> ServedModel:
        """The model of that name; None is the first. Raises UnknownModel with the names there are."""
        if name is None:
            return self.main
        if name not in self.models:
            raise UnknownModel(
                f"`model` is {shown(name)}: this server has {', '.join(map(repr, self.models))}",
                param="model",
            )
        return self.models[name]

    def speak(
        self,
        request: SpeechRequest,
        *,
        output: Output,
        timeout_s: float,
        model: str | None = None,
        client: str = NO_KEY,
        gone: Callable[[], bool] = lambda: False,
    ) -> Speech:
        """As :meth:`ServedModel.speak`; raises NotReady with the reason while the process is not."""
        return self._able(model).speak(request, output=output, timeout_s=timeout_s, client=client, gone=gone)

    def listen(
        self,
        recording: CloneReference,
        *,
        timeout_s: float,
        model: str | None = None,
        client: str = NO_KEY,
        gone: Callable[[], bool] = lambda: False,
    ) -> VoicePrompt:
        """As :meth:`ServedModel.listen`; raises NotReady with the reason while the process is not."""
        return self._able(model).listen(recording, timeout_s=timeout_s, client=client, gone=gone)

    def _able(self, name: str | None) -> ServedModel:
        chosen = self.model(name)
        if self.status.state not in ("ready", "draining"):
            raise self.refusal()
        return chosen

    def drain(self, timeout_s: float) -> bool:
        """Take no new work, finish what was accepted; false when ``timeout_s`` seconds were not enough."""
        self._become(Status("draining", "the service is going down"))
        deadline = time.monotonic() + timeout_s
        for model in self.models.values():
            model.drain()
        return all(
            model.wait_until_idle(max(0.0, deadline - time.monotonic())) for model in self.models.values()
        )

    def device_lost(self, error: DeviceFault) -> None:
        """The device is lost for every model: the process cannot serve any more."""
        self._break(error.message, fault=True)

    def _come_up(self) -> None:
        coming = "the weights"
        try:
            if not self._wait_for_weights():
                return
            self._loading_since = time.monotonic()
            for model in (self.models[source.name] for source in self._at_start):
                coming = model.name
                model.come_up(
                    on_state=partial(self._tell, model), give_up=lambda: self.status.state == "draining"
                )
        except TTSError as error:
            self._break(error.message, fault=isinstance(error, DeviceFault))
            return
        except Exception as error:
            # Whatever a library raises: the operator must find it, and systemd must see the process fail.
            logger.exception("%s did not come up", coming)
            self._break(f"{type(error).__name__}: {error}")
            return
        self.came_up_in_s = time.monotonic() - self._loading_since
        described = self.main.description
        self._become(Status("ready", f"running on {described.device}" if described else "running"))
        if self._keepalive_s or self._unload_after_s:
            threading.Thread(target=self._look_after_idle_models, name="idle", daemon=True).start()

    def _wait_for_weights(self) -> bool:
        """Until all of them are there; false when the process goes down before."""
        told = ""
        while missing := self._missing():
            self.waited_for_weights = True
            if missing.state != told:
                told = missing.state
                level = logging.INFO if told == "downloading" else logging.WARNING
                logger.log(level, "waiting for weights: %s", missing.reason)
            self._become(Status(missing.state, missing.reason, missing=missing))
            time.sleep(_LOOK_S)
            if self.status.state == "draining":
                return False
        if self.waited_for_weights:
            logger.info("the weights are complete")
            self._become(Status("loading", "the model is being loaded"))
        return True

    def _missing(self) -> Missing | None:
        found = (source.weights.missing() for source in self._at_start if source.weights)
        return next(filter(None, found), None)

    def _tell(self, model: ServedModel, state: ModelState) -> None:
        if state == "loading" and model is not self.main:
            self._become(Status("loading", f"{model.name} is being loaded"))
        elif state == "warming":
            self._become(Status("warming", "the model is loaded and speaks its first sentence"))

    def _look_after_idle_models(self) -> None:
        while self.status.state == "ready":
            time.sleep(_LOOK_S)
            for model in self.models.values():
                try:
                    model.look(keepalive_s=self._keepalive_s, unload_after_s=self._unload_after_s)
                except TTSError as error:
                    logger.warning("%s could not be kept awake: %s", model.name, error.message)

    def _break(self, reason: str, *, fault: bool = False) -> None:
        if self.status.state in ("draining", "broken"):
            return
        # Libraries put whole paragraphs into their errors; the journal and /ready get one line.
        line = " ".join(reason.split())
        logger.error("cannot serve: %s", line)
        self._become(Status("broken", line, fault))

    def _become(self, status: Status) -> None:
        with self._lock:
            # On the way down nothing brings the process up again, and what is broken stays so.
            if self.status.state == "draining" or (self.status.state == "broken" != status.state):
                return
            self.status = status
        self._on_change(status)
