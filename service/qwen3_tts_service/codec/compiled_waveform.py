"""The waveform part of the decoder through compiled kernels, without a copy between its layers."""

from __future__ import annotations

import torch
from torch import Tensor

from .device_kernels import DecoderKernels, PackedProduct, Target
from .layers import Input
from .weights import WaveformWeights


class _Workspace:
    """Memory for activations that stays from call to call: fresh pages cost more than the work on them, and
    what was captured in a graph finds it where it was.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flat: dict[str, Tensor] = {}
        self._outgrown: list[Tensor] = []

    def rows(self, name: str, streams: int, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        """[streams, rows, channels], contents undefined."""
        size = streams * rows * channels
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            if flat is not None and flat.is_cuda:
                self._outgrown.append(flat)  # A graph may compute there.
            flat = self._flat[name] = torch.empty(size, dtype=dtype, device=self._device)
        return flat[:size].view(streams, rows, channels)


class CompiledWaveform:
    """Computes what :func:`layers.waveform` computes, in float32 or bfloat16.

    One thread at a time. Memory for activations is that of the largest call so far.
    """

    def __init__(self, weights: WaveformWeights, kernels: DecoderKernels, device: torch.device) -> None:
        self._kernels = kernels
        blocks = weights.blocks
        self._enter = kernels.pack(weights.enter, blocks[0].snake)
        self._blocks: list[tuple[PackedProduct, list[tuple[PackedProduct, PackedProduct]]]] = []
        for index, block in enumerate(blocks):
            following = blocks[index + 1].snake if index + 1 < len(blocks) else weights.snake
            afterwards = [unit.snake_in for unit in block.units[1:]] + [following]
            units = [
                (kernels.pack(unit.dilated, unit.snake_out), kernels.pack(unit.project, then))
                for unit, then in zip(block.units, afterwards, strict=True)
            ]
            self._blocks.append((kernels.pack(block.upsample, block.units[0].snake_in), units))
        self._leave = kernels.pack_last(weights.leave)
        self._workspace = _Workspace(device)

    def __call__(self, x: Tensor, histories: list[Tensor]) -> Tensor:
        """As :func:`layers.waveform`; ``histories`` are moved on in place."""
        streams, rows, _ = x.shape
        inputs = _Inputs(self._workspace, self._sequence(), histories, streams, self._kernels.dtype)
        source = inputs.begin(rows)
        source.fresh.copy_(x)
        target = inputs.begin(rows)
        self._convolve(self._enter, source, Target(), target)
        for upsample, units in self._blocks:
            rows *= upsample.stride
            channels = units[0][0].channels
            stream = self._workspace.rows("residual", streams, rows, channels, torch.float32)
            source, target = target, inputs.begin(rows)
            self._convolve(upsample, source, Target(out=stream), target)
            for dilated, project in units:
                source, target = target, inputs.begin(rows)
                # Of what the last unit adds up, only the activated form is needed.
                out = None if dilated is units[-1][0] else stream
                self._unit(dilated, project, source, Target(stream, out), target)
        return self._sound(target)

    def _sequence(self) -> list[PackedProduct]:
        """The convolutions over more than one row, in the order of computation."""
        blocks = [
            layer for upsample, units in self._blocks for layer in (upsample, *(unit[0] for unit in units))
        ]
        return [self._enter, *blocks, self._leave]

    def _convolve(self, layer: PackedProduct, source: Input, target: Target, following: Input) -> None:
        target.activated = following.fresh
        self._kernels.convolve(layer, source.complete(), target)

    def _unit(
        self,
        dilated: PackedProduct,
        project: PackedProduct,
        source: Input,
        target: Target,
        following: Input,
    ) -> None:
        target.activated = following.fresh
        streams, rows, channels = source.fresh.shape
        between = self._workspace.rows("between", streams, rows, channels, self._kernels.dtype)
        self._kernels.unit(dilated, project, source.complete(), target, between)

    def _sound(self, source: Input) -> Tensor:
        rows = source.complete()
        sound = torch.empty(source.fresh.shape[:2], device=rows.device)
        self._kernels.leave(self._leave, rows, sound)
        return sound


class _Inputs:
    """Hands out the inputs of one call in the order of computation, in two places by turns."""

    def __init__(
        self,
        workspace: _Workspace,
        sequence: list[PackedProduct],
        histories: list[Tensor],
        streams: int,
        dtype: torch.dtype,
    ) -> None:
        self._workspace, self._streams, self._dtype = workspace, streams, dtype
        self._coming = enumerate(zip(sequence, histories, strict=True))

    def begin(self, rows: int) -> Input:
        """The next convolution's input, for ``rows`` rows that are about to be written."""
        index, (layer, history) = next(self._coming)
        name = "even" if index % 2 == 0 else "odd"
        size = layer.history + rows
        return Input(self._workspace.rows(name, self._streams, size, layer.channels, self._dtype), history)
