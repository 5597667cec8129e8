"""The reference engine with the interface of the streaming one: one request at a time, its sound in one piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ..engine.jobs import Finish
from ..engine.reference import ReferenceEngine
from ..errors import Cancelled, DeadlineExceeded
from ..speech.request import SAMPLES_A_FRAME, SpeechRequest


class WholeUtterance:
    """Iterate for one waveform, computed by the thread that iterates. Errors as :class:`.utterance.Utterance`."""

    def __init__(
        self,
        engine: ReferenceEngine,
        request: SpeechRequest,
        *,
        deadline: float,
        cancelled: Callable[[], bool],
    ) -> None:
        self.frames = 0
        self.finish: Finish | None = None
        self._engine = engine
        self._request = request
        self._deadline = deadline
        self._is_cancelled = cancelled
        self._given_up = False
        self._begun = False

    def __iter__(self) -> WholeUtterance:
        return self

    def __next__(self) -> npt.NDArray[np.float32]:
        if self._begun:
            raise StopIteration
        self._begun = True
        try:
            waveform = self._engine.synthesize(self._request, should_stop=self._should_stop)
        except Cancelled:
            if time.monotonic() < self._deadline:
                self.finish = "cancelled"
                raise
            self.finish = "deadline"
            raise DeadlineExceeded(
                "the request was not finished within its time", retry_after_s=1.0
            ) from None
        self.frames = len(waveform) // SAMPLES_A_FRAME
        self.finish = "length" if self.frames >= self._request.max_frames else "stop"
        return waveform

    def cancel(self) -> None:
        """Give up before the next frame. Never blocks."""
        self._given_up = True

    def _should_stop(self) -> bool:
        return self._given_up or self._is_cancelled() or time.monotonic() >= self._deadline


class ReferencePipeline:
    """Upstream's own ``generate`` behind ``open``. Attributes as of :class:`ReferenceEngine`, which it wraps."""

    #: Upstream keeps the running utterance's state in the model.
    slots = 1

    def __init__(self, engine: ReferenceEngine) -> None:
        self.engine = engine
        self.model = engine.model
        self.model_type, self.model_size = engine.model_type, engine.model_size
        self.synthetic = engine.synthetic
        self.device, self.dtype = engine.device, engine.dtype
        self.speakers, self.languages = engine.speakers, engine.languages
        self.sample_rate = engine.sample_rate
        self.check = engine.check
        self.encode_reference = engine.encode_reference

    def open(
        self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool] = lambda: False
    ) -> WholeUtterance:
        """As :meth:`.streaming.StreamingEngine.open`; the work begins with the first look for sound."""
        self.check(request)
        return WholeUtterance(self.engine, request, deadline=deadline, cancelled=cancelled)

    def ways(self) -> Mapping[int, str]:
        """How frames are computed, by batch size."""
        return {1: "upstream"}

    def reasons(self) -> Mapping[int, str]:
        """Why not faster: it is what was asked for."""
        return {}

    def stats(self) -> None:
        """Nothing is measured inside upstream's ``generate``."""

    def close(self) -> None:
        """Nothing runs between requests."""
