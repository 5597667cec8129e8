"""The waveform part of the decoder through the compiled kernels, without a copy between its layers."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import Kernels, PackedConvolution, Target
from .weights import WaveformWeights


class _Workspace:
    """Memory for activations that stays from call to call: fresh pages cost more than the work on them."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def rows(self, name: str, streams: int, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        """[streams, rows, channels], contents undefined."""
        size = streams * rows * channels
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self._flat[name] = torch.empty(size, dtype=dtype)
        return flat[:size].view(streams, rows, channels)


class CompiledWaveform:
    """Computes what :func:`layers.waveform` computes, on the CPU, in float32 or bfloat16.
    One thread at a time.
    """

    def __init__(self, weights: WaveformWeights, kernels: Kernels) -> None:
        self._kernels = kernels
        blocks = weights.blocks
        self._enter = PackedConvolution(weights.enter, kernels, blocks[0].snake)
        self._blocks: list[tuple[PackedConvolution, list[tuple[PackedConvolution, PackedConvolution]]]] = []
        for index, block in enumerate(blocks):
            following = blocks[index + 1].snake if index + 1 < len(blocks) else weights.snake
            afterwards = [unit.snake_in for unit in block.units[1:]] + [following]
            units = [
                (
                    PackedConvolution(unit.dilated, kernels, unit.snake_out),
                    PackedConvolution(unit.project, kernels, then),
                )
                for unit, then in zip(block.units, afterwards, strict=True)
            ]
            self._blocks.append((PackedConvolution(block.upsample, kernels, block.units[0].snake_in), units))
        self._leave = PackedConvolution(weights.leave, kernels, packed=False)
        self._workspace = _Workspace()

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
            stream = self._workspace.rows("residual", streams, rows, channels, torch.float32).data_ptr()
            source, target = target, inputs.begin(rows)
            self._convolve(upsample, source, Target(None, stream, rows * channels), target)
            for dilated, project in units:
                source, target = target, inputs.begin(rows)
                # Of what the last unit adds up, only the activated form is needed.
                out = None if dilated is units[-1][0] else stream
                self._unit(dilated, project, source, Target(stream, out, rows * channels), target)
        return self._sound(target)

    def _sequence(self) -> list[PackedConvolution]:
        """The convolutions over more than one row, in the order of computation."""
        blocks = [
            packed for upsample, units in self._blocks for packed in (upsample, *(unit[0] for unit in units))
        ]
        return [self._enter, *blocks, self._leave]

    def _convolve(self, packed: PackedConvolution, source: _Input, target: Target, following: _Input) -> None:
        following.aim(target)
        self._kernels.convolve(packed, source.complete(), target)

    def _unit(
        self,
        dilated: PackedConvolution,
        project: PackedConvolution,
        source: _Input,
        target: Target,
        following: _Input,
    ) -> None:
        following.aim(target)
        streams, rows, channels = source.fresh.shape
        between = self._workspace.rows("between", streams, rows, channels, self._kernels.dtype)
        self._kernels.unit(dilated, project, source.complete(), target, between)

    def _sound(self, source: _Input) -> Tensor:
        sound = torch.empty(source.fresh.shape[:2])
        self._kernels.leave(self._leave, source.complete(), sound)
        return sound


class _Input:
    """What a convolution reads: its history and, behind it, the fresh rows, without a copy between them."""

    def __init__(self, rows: Tensor, history: Tensor) -> None:
        self.rows, self._history = rows, history
        self.fresh = rows[:, history.shape[1] :]
        rows[:, : history.shape[1]].copy_(history)

    def aim(self, target: Target) -> None:
        """Have the convolution before write its activated result here."""
        target.activated, target.activated_step = self.fresh.data_ptr(), self.rows.stride(0)

    def complete(self) -> tuple[int, int, int, int]:
        """Where the rows lie, once the fresh ones are written; the newest are kept for the next call."""
        self._history.copy_(self.rows[:, self.rows.shape[1] - self._history.shape[1] :])
        streams, rows, _ = self.fresh.shape
        return self.rows.data_ptr(), self.rows.stride(0), streams, rows


class _Inputs:
    """Hands out the inputs of one call in the order of computation, in two places by turns."""

    def __init__(
        self,
        workspace: _Workspace,
        sequence: list[PackedConvolution],
        histories: list[Tensor],
        streams: int,
        dtype: torch.dtype,
    ) -> None:
        self._workspace, self._streams, self._dtype = workspace, streams, dtype
        self._coming = enumerate(zip(sequence, histories, strict=True))

    def begin(self, rows: int) -> _Input:
        """The next convolution's input, for ``rows`` rows that are about to be written."""
        index, (packed, history) = next(self._coming)
        name = "even" if index % 2 == 0 else "odd"
        size = packed.history + rows
        return _Input(self._workspace.rows(name, self._streams, size, packed.channels, self._dtype), history)
