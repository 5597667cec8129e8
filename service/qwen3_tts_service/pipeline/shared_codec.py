"""One codec for every model of the process: their checkpoints carry the same one, 0.5 GB each."""

from __future__ import annotations

import filecmp
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ..checkpoints.load import LoadedModel, choose_dtype
from ..codec.streaming import StreamingDecoder
from ..codec.worker import CodecWorker
from ..errors import CheckpointError, DeviceFault

logger = logging.getLogger(__name__)

_CODEC_WEIGHTS = Path("speech_tokenizer") / "model.safetensors"
#: One core of so many is left to others, see :func:`_own_threads`.
_OTHERS_SHARE = 8


class SharedCodec:
    """Builds the codec worker from the first model that comes, keeps it until the last one has gone.

    ``dtype`` is its precision, ``threads`` its torch threads (0: :func:`_own_threads`), ``compile`` whether its
    shapes are compiled, ``kernels`` where that is kept (:class:`..codec.streaming.StreamingDecoder`).
    It runs where the model's codec was loaded to. ``way`` and ``reason`` say whether it is compiled and why not;
    empty before the first model.
    """

    def __init__(
        self,
        *,
        dtype: Literal["fp32", "bf16"] = "fp32",
        threads: int = 0,
        compile: bool = True,
        kernels: Path | None = None,
        on_device_fault: Callable[[DeviceFault], None] = lambda error: None,
    ) -> None:
        self._dtype = dtype
        self._threads = threads
        self._compile = compile
        self._kernels = kernels
        self._on_device_fault = on_device_fault
        self._lock = threading.Lock()
        self._worker: CodecWorker | None = None
        self._source: Path | None = None
        self._users = 0
        self.way = self.reason = ""

    def take(self, model: LoadedModel) -> CodecWorker:
        """The worker, started; whoever takes it gives it back. Compiles on first use: seconds to minutes.

        ``model`` loses its own copy of the codec's decoder: it can still listen to recordings, and the
        reference engine must not be used with it any more. Raises CheckpointError when its codec is another
        one, and EngineError when the codec does not run.
        """
        with self._lock:
            weights = model.checkpoint.path / _CODEC_WEIGHTS
            if self._worker is None:
                self._worker = self._build(model)
                self._source = weights
            else:
                assert self._source is not None
                _compare(weights, self._source)
            tokenizer: Any = model.upstream.model.speech_tokenizer
            tokenizer.model.decoder = None
            self._users += 1
            return self._worker

    def give_back(self) -> None:
        """One model less; after the last one the worker's threads end and its memory is free."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._worker is not None:
                self._worker.stop()
                self._worker = self._source = None

    @property
    def worker(self) -> CodecWorker | None:
        """The running worker, for metrics; None while no model is loaded."""
        return self._worker

    def _build(self, model: LoadedModel) -> CodecWorker:
        tokenizer: Any = model.upstream.model.speech_tokenizer
        decoder = StreamingDecoder(
            tokenizer.model.decoder,
            dtype=choose_dtype(self._dtype, model.codec_device),
            device=model.codec_device,
            compile=self._compile,
            kernels=self._kernels,
        )
        worker = CodecWorker(
            decoder, threads=self._threads or _own_threads(model), on_device_fault=self._on_device_fault
        )
        worker.start()
        self.way, self.reason = decoder.way, decoder.reason
        return worker


def _own_threads(model: LoadedModel) -> int:
    """Torch's own choice (0), but beside a language model on a GPU one core of eight less.

    The loop that launches frames, and who reads them, find a core at once then; a codec that takes all of them
    makes a frame wait for the scheduler.
    """
    if model.codec_device.type != "cpu" or model.device.type == "cpu":
        return 0
    return model.threads - model.threads // _OTHERS_SHARE


def _compare(weights: Path, first: Path) -> None:
    try:
        same = filecmp.cmp(weights, first, shallow=False)
    except OSError as error:
        raise CheckpointError(f"the codecs {weights} and {first} cannot be compared: {error}") from error
    if not same:
        raise CheckpointError(
            f"{weights} holds another codec than {first}: the models of one process share theirs. "
            "Serve this checkpoint with a process of its own"
        )
