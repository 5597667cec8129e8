"""How frames are computed: the fastest way that works on the device, verified before it is used.

Three ways, from fast to slow:

``captured``  a GPU: our kernels (``gpu_frame.py``), one graph a batch size; a frame is one call of the host
``compiled``  a GPU: the same kernels, called one by one; a CPU: the layers through ``torch.compile``
``eager``     plain torch, as ``FrameModel.frame`` stands there

A way that fails to build, or that computes something else than plain torch on a fixed prompt, is not taken: the
next slower one is, the journal says why, and :meth:`FrameRunner.ways` shows it. What plain torch computes on
the device is itself held against the CPU in float32, from the checkpoint's files: before a runner is built, by
``selfcheck.py``.

Shapes that are built, at most twelve: the batch sizes (seven with 64 slots; see :func:`batch_sizes`) and on a GPU
the lengths of prompts (five; see :func:`.prefill.lengths`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from ..cores import Turn, cores
from ..errors import SelfCheckFailed
from . import verification
from .compiled import compiled_layer
from .frame import CODE_GROUPS, FrameModel
from .transformer import LayerFunction, decoder_layer

if TYPE_CHECKING:
    from ..speech.request import Sampling
    from .gpu_frame import GPUFrame
    from .prompt import Prompt

logger = logging.getLogger(__name__)

Way = Literal["captured", "compiled", "eager"]
_SLOWER: dict[Way, Way] = {"captured": "compiled", "compiled": "eager"}
#: Attention of the plain and the compiled way reads a slot up to one of these; our kernels know each row's own.
_LENGTHS = (128, 256, 512, 1024, 2048)
#: Host buffers in use at once: one frame is computed, one is read, one is launched.
_IN_FLIGHT = 4

#: Longest reason in the journal and in :meth:`FrameRunner.reasons`.
_REASON_CHARS = 500

Frame = Callable[[int, int], None]


@dataclass(frozen=True)
class FrameResult:
    """One computed frame: codes [batch, 16] int32 and done [batch]; never written to again."""

    codes: npt.NDArray[np.int32]
    done: npt.NDArray[np.bool_]


class _Computed:
    """A frame that was computed while it was launched."""

    def __init__(self, result: FrameResult) -> None:
        self._result = result

    def read(self) -> FrameResult:
        """The frame."""
        return self._result


class _OnItsWay:
    """A frame that a GPU computes."""

    def __init__(self, event: torch.cuda.Event, codes: torch.Tensor, done: torch.Tensor) -> None:
        self._event, self._codes, self._done = event, codes, done

    def read(self) -> FrameResult:
        """Wait without holding the interpreter's lock. Raises RuntimeError when the device failed."""
        self._event.synchronize()
        return FrameResult(self._codes.numpy().copy(), self._done.numpy().astype(np.bool_))


def batch_sizes(slots: int) -> tuple[int, ...]:
    """The row counts that are built for so many slots: powers of two, and all of them."""
    powers = {1 << power for power in range(slots.bit_length())}
    return tuple(sorted(powers | {slots}))


class FrameRunner:
    """Launches frames of ``model``. Only one thread may call it, and :meth:`ways`.

    ``batch_sizes`` are the row counts that it launches.
    """

    def __init__(self, model: FrameModel, *, fastest: Way | None = None) -> None:
        """Build and verify every batch size; takes minutes where compile caches are cold.

        ``fastest`` bars what is faster. Raises SelfCheckFailed when not even plain torch computes the same
        twice.
        """
        self.model = model
        self.slots = model.slots
        self.batch_sizes = batch_sizes(self.slots)
        self._on_gpu = model.device.type == "cuda"
        #: On a CPU a frame is computed by the thread that launches it.
        self.computes_at_launch = not self._on_gpu
        self._positions = [0] * self.slots
        self._active: list[bool] | None = None
        self._frames: dict[int, tuple[Way, Frame]] = {}
        self._reasons: dict[int, str] = {}
        self._next_buffer = 0
        if self._on_gpu:
            self._buffers = [_HostBuffer(self.slots) for _ in range(_IN_FLIGHT)]
            # Before the codec, prompts and recordings, whose kernels wait for it where the GPU has to choose.
            self._stream = torch.cuda.Stream(model.device, priority=-1)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(model.device))
        best: Way = "captured" if self._on_gpu else "compiled"
        with self._own_stream(), torch.inference_mode():
            self._build(fastest or best)
        if not self._on_gpu:
            cores.shared = True
            cores.give_up_team()

    def ways(self) -> dict[int, str]:
        """Batch size -> the way it is computed."""
        return {batch: way for batch, (way, _) in self._frames.items()}

    def reasons(self) -> dict[int, str]:
        """Batch size -> why it is not computed in the fastest way of this device, where it is not; 0: prompts."""
        return dict(self._reasons)

    def admit(self, slot: int, prompt: Prompt, sampling: Sampling, seed: int, max_frames: int) -> int:
        """As :meth:`FrameModel.admit`; the prompt is finished on its device."""
        with self._queue(), torch.inference_mode():
            if self._on_gpu:
                # They were made on another stream, which must not have their memory back before they are read.
                prompt.embeds.record_stream(self._stream)
                prompt.trailing.record_stream(self._stream)
            frames = self.model.admit(slot, prompt, sampling, seed, max_frames)
        self._positions[slot] = len(prompt.embeds) - 1
        self._active = None
        return frames

    def move(self, source: int, target: int) -> None:
        """As :meth:`FrameModel.move`."""
        with self._queue(), torch.inference_mode():
            self.model.move(source, target, length=min(self._positions[source] + 1, self.model.positions))
        self._positions[target] = self._positions[source]
        self._active = None

    def launch(self, batch: int, active: Sequence[bool]) -> _Computed | _OnItsWay:
        """Begin a frame of slots 0 to ``batch``, of which ``active`` advance; does not wait on a GPU."""
        _, frame = self._frames[batch]
        model, state = self.model, self.model.state
        with self._queue(), torch.inference_mode():
            rows = list(active)
            if self._on_gpu:
                buffer = self._buffers[self._next_buffer]
                self._next_buffer = (self._next_buffer + 1) % _IN_FLIGHT
            if rows != self._active:
                wanted = torch.tensor(rows)
                if self._on_gpu:
                    buffer.active[:batch].copy_(wanted)
                    wanted = buffer.active[:batch]
                state.active[:batch].copy_(wanted, non_blocking=True)
                self._active = rows
            length = 0
            for slot, advances in enumerate(rows):
                if advances:
                    length = max(length, self._positions[slot] + 1)
                    # A row that has ended stands still; counting it on costs a longer bucket at worst.
                    self._positions[slot] = min(self._positions[slot] + 1, model.positions - 1)
            frame(batch, self._bucket(length))
            if not self._on_gpu:
                return _Computed(
                    FrameResult(state.codes[:batch].numpy().copy(), state.done[:batch].numpy().copy())
                )
            return buffer.fetch(model, batch)

    def _own_stream(self) -> torch.cuda.StreamContext | contextlib.nullcontext[None]:
        return torch.cuda.stream(self._stream) if self._on_gpu else contextlib.nullcontext()

    def _queue(self) -> Turn | torch.cuda.StreamContext | contextlib.nullcontext[None]:
        """On a GPU, the frames' own stream; where cores compute frames, the codec does not compute meanwhile."""
        return self._own_stream() if self._on_gpu else cores.turn()

    def _bucket(self, length: int) -> int:
        fitting = next((size for size in _LENGTHS if size >= length), length)
        return min(fitting, self.model.positions)

    def _build(self, fastest: Way) -> None:
        started = time.monotonic()
        expected = verification.expected(self.model, self._bucket(0))
        for batch in reversed(self.batch_sizes):
            way = fastest
            while not self._take(batch, way, expected):
                way = _SLOWER[way]
        if self._on_gpu and fastest == "captured":
            self._capture_prefill()
        verification.clear(self.model)
        if self.model.slower_because:
            logger.warning("%s", self.model.slower_because)
            for batch in self.batch_sizes:
                self._reasons.setdefault(batch, self.model.slower_because)
        self._frames = dict(sorted(self._frames.items()))
        logger.info(
            "frames by batch size: %s; ready after %.1f s",
            ", ".join(f"{batch} {way}" for batch, way in self.ways().items()),
            time.monotonic() - started,
        )

    def _take(self, batch: int, way: Way, expected: verification.Expected) -> bool:
        """Build ``way`` for ``batch`` and verify it; false when it must not be used. The slowest must."""
        try:
            frame = self._frame(batch, way)
            by_kernels = self._on_gpu and way != "eager"
            error = verification.verify(
                self.model,
                frame,
                batch,
                self._bucket(0),
                expected,
                logits_of=self._kernels.newest_logits if by_kernels else None,
            )
        except SelfCheckFailed as mismatch:
            if way == "eager":
                raise
            reason = mismatch.message
        except Exception as failure:
            # Whatever a compiler or a driver raises: the slower way is there for it.
            if way == "eager":
                raise
            reason = f"{type(failure).__name__}: {failure}"
        else:
            self._frames[batch] = (way, frame)
            logger.debug("batch %d %s: error %.2g", batch, way, error)
            return True
        line = " ".join(reason.split())[:_REASON_CHARS]
        logger.warning("frames of %d rows are not %s, but computed in a slower way: %s", batch, way, line)
        self._reasons[batch] = f"not {way}: {line}"
        return False

    def _capture_prefill(self) -> None:
        # Here, as it captures graphs and nothing else does where there are none.
        from .prefill import CapturedPrefill

        try:
            prefill = CapturedPrefill(self.model)
            for length in prefill.lengths:
                verification.verify_prefill(self.model, prefill, length)
        except Exception as failure:  # noqa: BLE001
            # Whatever a compiler or a driver raises, and SelfCheckFailed: plain torch is there for it.
            line = " ".join(f"{type(failure).__name__}: {failure}".split())[:_REASON_CHARS]
            logger.warning("prompts are not read by graphs, but one operation after the other: %s", line)
            self._reasons[0] = f"prompts not captured: {line}"
        else:
            self.model.prefill_fn = prefill

    def _frame(self, batch: int, way: Way) -> Frame:
        if way == "eager":
            return partial(self._by_layers, decoder_layer, decoder_layer)
        if not self._on_gpu:
            talker, predictor = self._compiled_layers
            return partial(self._by_layers, talker, predictor)
        return self._captured(batch) if way == "captured" else self._kernels.frame

    def _by_layers(self, talker: LayerFunction, predictor: LayerFunction, batch: int, length: int) -> None:
        self.model.talker.layer_fn, self.model.predictor.layer_fn = talker, predictor
        self.model.frame(batch, length)

    @cached_property
    def _compiled_layers(self) -> tuple[LayerFunction, LayerFunction]:
        return compiled_layer("talker_layer", any_length=True), compiled_layer("predictor_layer")

    @cached_property
    def _kernels(self) -> GPUFrame:
        # Here, because Triton is only there where torch was built for a GPU.
        from .gpu_frame import GPUFrame

        return GPUFrame(self.model)

    def _captured(self, batch: int) -> Frame:
        frame = self._kernels.frame
        # Kernels that are used for the first time are compiled, which a capture does not bear.
        frame(batch, 0)
        graph = torch.cuda.CUDAGraph()
        # On this stream, whose priority the graph's kernels keep. Other threads may use the GPU meanwhile: prompts
        # are built, another model serves.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            frame(batch, 0)
        return lambda _batch, _length: graph.replay()


class _HostBuffer:
    """Pinned memory for one frame on its way."""

    def __init__(self, slots: int) -> None:
        self.active = torch.empty(slots, dtype=torch.bool, pin_memory=True)
        self.codes = torch.empty(slots, CODE_GROUPS, dtype=torch.int32, pin_memory=True)
        self.done = torch.empty(slots, dtype=torch.bool, pin_memory=True)
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def fetch(self, model: FrameModel, batch: int) -> _OnItsWay:
        """Queue the copies of the frame's results behind it."""
        self.codes[:batch].copy_(model.state.codes[:batch], non_blocking=True)
        self.done[:batch].copy_(model.state.done[:batch], non_blocking=True)
        self.event.record()
        return _OnItsWay(self.event, self.codes[:batch], self.done[:batch])
