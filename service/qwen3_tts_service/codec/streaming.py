"""Upstream's codec decoder as a stream: frames in, their samples out, nothing computed twice.

Upstream decodes a whole utterance at once, or chunks of it with 25 frames of left context recomputed for each,
which is slow and only approximate, because the transformer alone looks back 8 x 71 frames. Here each stream
keeps what later frames need of earlier ones (rows in front of every convolution, the transformer's window of
keys and values with absolute rotary positions), so that any chunking of the codes gives the waveform of one
undivided pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import EngineError, is_device_lost
from ..native import NotCompiled, default_directory
from . import layers
from .captured import CapturedDecodes
from .compiled_waveform import CompiledWaveform
from .device_kernels import DecoderKernels
from .kernels import Kernels
from .latents import Latents, PlainLatents
from .state import DecoderState
from .weights import DecoderWeights, Product, fold

log = logging.getLogger(__name__)

#: Frames computed at a time within a call: activations of more would leave the processor's caches.
PIECE_FRAMES = 16
#: On a GPU, of the waveform part and of all streams together: enough to keep it busy, and some 100 MB for each
#: kind of activation.
GPU_PIECE_FRAMES = 128

#: Calls that compare compiled latents with plain ones, in frames: one of the two streams is ahead by the first; the
#: others are more than a window together, and end with a larger shift of it between small ones.
_COMPARED_AHEAD = 5
_COMPARED_FRAMES = (1, *[PIECE_FRAMES] * 5, 1, 4, 1)
#: Longest ``reason``, in characters.
_REASON_CHARS = 500

Way = Literal["captured", "compiled", "eager"]


class StreamingDecoder:
    """Decodes code frames of many streams over the weights of upstream's decoder.

    ``upstream`` is a ``Qwen3TTSTokenizerV2Decoder``; its weights are copied into other forms and it is not used
    afterwards. One thread at a time may call :meth:`decode`, with as many cores as torch has threads. Products
    run through kernels compiled for the processor, kept in the directory ``kernels``
    (:func:`..native.default_directory` unless given), or for the GPU, where :meth:`prepare` captures whole decodes.
    ``way`` says what came of it, ``reason`` why it is not the fastest of the device.

    Raises CheckpointError when the decoder is built in a way that this class does not know.
    """

    way: Way
    reason: str

    def __init__(
        self,
        upstream: nn.Module,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        compile: bool = True,
        kernels: Path | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        weights = fold(upstream, dtype=dtype, device=self.device)
        self._layout = list(_layout(weights))
        self._state_size = sum(rows * channels for rows, channels in self._layout)
        self.codebooks, self.codebook_size, _ = weights.codebooks.shape
        self.samples_per_frame = 1
        for convolution in _convolutions(weights):
            self.samples_per_frame *= convolution.stride
        #: How many frames back the waveform part looks.
        self.reach = _reach(weights)
        self.way, self.reason = "eager", "compiling was not asked for"
        self._waveform: Callable[[Tensor, list[Tensor]], Tensor] = partial(
            layers.waveform, weights=weights.waveform
        )
        self._latents: Latents = PlainLatents(weights)
        if compile:
            # Kernels are launched on the thread's current device.
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                self._compile(weights, kernels or default_directory())
        self._captured: CapturedDecodes | None = None

    def _compile(self, weights: DecoderWeights, directory: Path) -> None:
        """Take the compiled way where there is one, and say why where there is none."""
        try:
            kernels = self._kernels(directory)
            waveform = CompiledWaveform(weights.waveform, kernels, self.device)
            latents = kernels.latents(weights)
            if self.device.type != "cpu":
                self._compare_latents(latents)
        except Exception as error:
            # Whatever a compiler raises, and NotCompiled: plain torch is there for it, but not without a device.
            if is_device_lost(error):
                raise
            self.reason = _said(error)
            log.warning("the codec computes without compiled kernels: %s", self.reason)
            return
        self.way, self.reason = "compiled", ""
        self._waveform, self._latents = waveform, latents

    def _compare_latents(self, latents: Latents) -> None:
        """Beside plain torch on the device, until the transformer's window has moved on."""
        draw = torch.Generator().manual_seed(0)
        states = self.new_state(2), self.new_state(2)
        limit = 1e-4 if self.dtype == torch.float32 else 0.1
        for streams, frames in ((1, _COMPARED_AHEAD), *((2, frames) for frames in _COMPARED_FRAMES)):
            codes = torch.randint(self.codebook_size, (streams, self.codebooks, frames), generator=draw)
            got, exact = (
                way(codes.to(self.device), state.position, self._views(state.memory))
                for way, state in zip(
                    (latents, self._latents), (s.first(streams) for s in states), strict=True
                )
            )
            error = float((got.double() - exact.double()).square().mean().sqrt() / exact.double().std())
            if not error <= limit:
                raise NotCompiled(
                    f"the compiled latents are off by {error:.1e} where {limit:.0e} is rounding"
                )

    def _kernels(self, directory: Path) -> DecoderKernels:
        if self.device.type == "cpu":
            return Kernels(self.dtype, directory)
        # Here, because Triton is only there where torch was built for a GPU.
        try:
            from .gpu_kernels import GPUKernels
        except ImportError as error:
            raise NotCompiled(f"no Triton: {error}") from error
        return GPUKernels(self.dtype, self.device)

    def prepare(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Set up what decodes of (batch, frames) in ``shapes`` need, on the thread and stream that will decode.

        On a GPU each becomes a graph; where that fails they are launched kernel by kernel, and ``reason`` says why.
        """
        if self.device.type == "cpu" or self.way == "eager":
            return
        captured = CapturedDecodes(self._decode, self.new_state, self.codebooks)
        try:
            with torch.no_grad():
                captured.capture(shapes)
                self._compare(captured, shapes)
        except Exception as error:
            # Whatever a driver raises, and NotCompiled: kernels one by one are there for it, but not without a device.
            if is_device_lost(error):
                raise
            self.reason = f"not captured: {_said(error)}"
            log.warning("decodes are launched kernel by kernel: %s", self.reason)
        else:
            self.way, self._captured = "captured", captured

    def _compare(self, captured: CapturedDecodes, shapes: Sequence[tuple[int, int]]) -> None:
        """Every graph beside the same program launched by the host: the same kernels, so the same sound."""
        for batch, frames in shapes:
            draw = torch.Generator().manual_seed(frames)
            codes = torch.randint(self.codebook_size, (2, batch, self.codebooks, frames), generator=draw)
            by_graph, by_host = self.new_state(batch), self.new_state(batch)
            for part in codes.to(self.device):
                got = captured.decode(part, [by_graph])
                wanted = self._decode(part, by_host)
            if got is None or not torch.equal(got, wanted):
                raise NotCompiled(f"the graph of {batch} streams and {frames} frames makes another sound")

    def new_state(self, batch: int = 1) -> DecoderState:
        """State of ``batch`` streams before their first frame."""
        return DecoderState.empty(batch, self._state_size, self.dtype, self.device)

    def decode(self, codes: Tensor, states: DecoderState | list[DecoderState]) -> Tensor:
        """The next frames of every stream, as sound.

        ``codes`` [batch, 16, frames] integers, any device; frames >= 1 and the same for all streams. ``states``:
        one state of that batch, or states whose batches add up to it (streams decoded together, wherever each
        of them stands); they are moved on by these frames. Returns float32 [batch, frames * 1920] in [-1, 1] at
        24 kHz on the decoder's device.

        Raises EngineError when the codes have another shape or lie outside the codebooks (checked on the CPU
        only, where looking costs nothing); the states are then unchanged.
        """
        members = [states] if isinstance(states, DecoderState) else states
        self._check(codes, sum(state.batch for state in members))
        codes = codes.to(self.device, torch.int64)
        with torch.no_grad():
            sound = None if self._captured is None else self._captured.decode(codes, members)
            if sound is None:
                sound = self._together(codes, members)
        expected = (codes.shape[0], codes.shape[2] * self.samples_per_frame)
        if tuple(sound.shape) != expected:
            raise EngineError(f"the codec made {tuple(sound.shape)} samples for {expected}")
        return sound

    def hear(self, codes: Tensor, states: DecoderState | list[DecoderState]) -> None:
        """Move ``states`` on by ``codes`` as :meth:`decode` does, without their sound, at a tenth of the cost.

        For frames that nobody listens to, such as those of a recording that speech continues. The last
        ``reach`` frames before the first that somebody listens to must go through :meth:`decode`: what earlier
        ones leave in the waveform part is not kept. Raises as :meth:`decode`.
        """
        members = [states] if isinstance(states, DecoderState) else states
        self._check(codes, sum(state.batch for state in members))
        codes = codes.to(self.device, torch.int64)
        with torch.no_grad():
            together = DecoderState.joined(members)
            for piece in torch.split(codes, PIECE_FRAMES, dim=-1):
                self._latents(piece, together.position, self._views(together.memory))
            together.give_back(members)

    def _together(self, codes: Tensor, members: list[DecoderState]) -> Tensor:
        if len(members) == 1:
            return self._decode(codes, members[0])
        together = DecoderState.joined(members)
        sound = self._decode(codes, together)
        together.give_back(members)
        return sound

    def _check(self, codes: Tensor, streams: int) -> None:
        if codes.dim() != 3 or codes.shape[1] != self.codebooks or codes.shape[2] < 1:
            raise EngineError(
                f"codes of shape {tuple(codes.shape)}; the codec takes [streams, {self.codebooks}, frames >= 1]"
            )
        if codes.shape[0] != streams:
            raise EngineError(f"codes of {codes.shape[0]} streams with the states of {streams}")
        if codes.is_cpu:
            lowest, highest = codes.aminmax()
            if lowest < 0 or highest >= self.codebook_size:
                raise EngineError(
                    f"codes from {int(lowest)} to {int(highest)}; codebooks have 0 to {self.codebook_size - 1}"
                )

    def _decode(self, codes: Tensor, state: DecoderState) -> Tensor:
        pieces = [self._piece(piece, state) for piece in torch.split(codes, PIECE_FRAMES, dim=-1)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _piece(self, codes: Tensor, state: DecoderState) -> Tensor:
        """Pure tensor code on fixed shapes: [batch, codebooks, frames] to [batch, samples]."""
        views = self._views(state.memory)
        latents, rest = self._latents(codes, state.position, views), list(views)
        if self.device.type == "cpu":
            return self._waveform(latents, rest)
        frames = max(1, GPU_PIECE_FRAMES // state.batch)
        rows = latents.shape[1] // codes.shape[2] * frames
        return torch.cat([self._waveform(part, rest) for part in torch.split(latents, rows, dim=1)], dim=-1)

    def _views(self, memory: Tensor) -> Iterator[Tensor]:
        """The parts of the state [batch, rows, channels], in the order of computation."""
        start = 0
        for rows, channels in self._layout:
            part = memory[:, start : start + rows * channels]
            yield part.view(memory.shape[0], rows, channels)
            start += rows * channels


def _said(error: Exception) -> str:
    """On one line, of bounded length."""
    name = "" if isinstance(error, NotCompiled) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split())[:_REASON_CHARS]


def _convolutions(weights: DecoderWeights) -> Iterator[Product]:
    yield weights.pre
    for upsample, _ in weights.upsamples:
        yield upsample
    yield weights.waveform.enter
    for block in weights.waveform.blocks:
        yield block.upsample
    yield weights.waveform.leave


def _reach(weights: DecoderWeights) -> int:
    """Frames before a sample that the waveform part needs: the histories of its convolutions, one after another."""
    rows_a_frame = math.prod(upsample.stride for upsample, _ in weights.upsamples)
    frames = weights.waveform.enter.history / rows_a_frame
    for block in weights.waveform.blocks:
        frames += block.upsample.history / rows_a_frame
        rows_a_frame *= block.upsample.stride
        frames += sum(unit.dilated.history for unit in block.units) / rows_a_frame
    return math.ceil(frames + weights.waveform.leave.history / rows_a_frame)


def _layout(weights: DecoderWeights) -> Iterator[tuple[int, int]]:
    """Rows and channels of every part of the state, in the order of computation."""

    def before(convolution: Product) -> tuple[int, int]:
        return convolution.history, convolution.channels

    yield before(weights.pre)
    transformer = weights.transformer
    for _ in range(2 * len(transformer.layers)):
        yield transformer.window - 1, transformer.kv_heads * transformer.head_dim
    for upsample, convnext in weights.upsamples:
        yield before(upsample)
        taps, channels = convnext.depthwise.shape
        yield taps - 1, channels
    yield before(weights.waveform.enter)
    for block in weights.waveform.blocks:
        yield before(block.upsample)
        for unit in block.units:
            yield before(unit.dilated)
    yield before(weights.waveform.leave)
