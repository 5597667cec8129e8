"""The reference engine with the interface of the streaming one: one request at a time, its sound when it is whole."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.reference import ReferenceEngine
from ..engine.requests import default_sampling
from ..errors import Cancelled, EngineError, TTSError
from ..speech.listening import AHEAD_FRAMES, Listener, Reader, Waveform, out_of_time
from ..speech.request import SAMPLES_A_FRAME, SpeechRequest

logger = logging.getLogger(__name__)

#: How often a listener that lags is looked at (seconds).
_LOOK_S = 0.02
#: The sound is handed over in such pieces, for listeners whose memory ends at :data:`AHEAD_FRAMES`.
_PIECE_SAMPLES = 16 * SAMPLES_A_FRAME


class WholeSpeaking:
    """A request that a thread of its own computes, and then tells to its listener."""

    def __init__(
        self,
        engine: ReferenceEngine,
        request: SpeechRequest,
        listener: Listener,
        *,
        deadline: float,
        text_tokens: int,
    ) -> None:
        self.text_tokens = text_tokens
        self._engine = engine
        self._request = request
        self._listener = listener
        self._deadline = deadline
        self._given_up = threading.Event()
        threading.Thread(target=self._run, name="reference", daemon=True).start()

    def cancel(self) -> None:
        """Give up before the next frame. Never blocks."""
        self._given_up.set()

    def _run(self) -> None:
        try:
            waveform = self._engine.synthesize(self._request, should_stop=self._should_stop)
            self._tell(waveform)
        except Cancelled as error:
            if time.monotonic() < self._deadline:
                self._listener.end("cancelled", error)
            else:
                self._listener.end("deadline", out_of_time(0))
        except TTSError as error:
            self._listener.end(None, error)
        except Exception as error:
            # Whatever a library raises: who listens must hear of it.
            logger.exception("a request failed")
            self._listener.end(None, EngineError(f"upstream's code failed: {type(error).__name__}: {error}"))
        else:
            frames = len(waveform) // SAMPLES_A_FRAME
            self._listener.end("length" if frames >= self._request.max_frames else "stop", None)

    def _tell(self, waveform: Waveform) -> None:
        for start in range(0, len(waveform), _PIECE_SAMPLES):
            piece = waveform[start : start + _PIECE_SAMPLES]
            while (start + len(piece)) // SAMPLES_A_FRAME - self._listener.taken > AHEAD_FRAMES:
                if self._should_stop():
                    raise Cancelled("the request was given up while it was heard")
                time.sleep(_LOOK_S)
            self._listener.hear(piece)

    def _should_stop(self) -> bool:
        return self._given_up.is_set() or self._listener.gone() or time.monotonic() >= self._deadline


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
        # To count with. A tokenizer must not be used by two at a time, and the engine uses its own.
        self._tokenizer: Any = copy.deepcopy(engine.model.upstream.processor.tokenizer)
        self._tokenizing = threading.Lock()

    def start(self, request: SpeechRequest, listener: Listener, *, deadline: float) -> WholeSpeaking:
        """As :meth:`.streaming.StreamingEngine.start`."""
        self.check(request)
        request = request.drawn(default_sampling(self.model.checkpoint))
        with self._tokenizing:
            tokens = len(self._tokenizer(request.text)["input_ids"])
        return WholeSpeaking(self.engine, request, listener, deadline=deadline, text_tokens=tokens)

    def open(
        self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Reader:
        """As :meth:`.streaming.StreamingEngine.open`."""
        return Reader(
            lambda listener: self.start(request, listener, deadline=deadline),
            deadline=deadline,
            cancelled=cancelled,
        )

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
