"""The decoder's operations in plain torch: any device, any dtype, nothing compiled.

Activations are ``[batch, rows, channels]``, one row a time step. ``history`` holds the rows that came before,
as a view into the stream's state, and is moved on in place.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as fn
from torch import Tensor

from .weights import Block, ConvNext, Product, Snake, WaveformWeights


def snake(x: Tensor, activation: Snake) -> Tensor:
    """SnakeBeta with its exponentials already taken."""
    return torch.addcmul(x, activation.depth, torch.sin(x * activation.frequency).square_())


def with_history(x: Tensor, history: Tensor) -> Tensor:
    """``history`` and ``x`` as one; ``history`` [batch, rows, channels] then holds the newest rows of both."""
    rows = torch.cat((history, x), dim=1)
    history.copy_(rows[:, rows.shape[1] - history.shape[1] :])
    return rows


class Input:
    """What a convolution reads: its history and, behind it, the fresh rows, without a copy between them."""

    def __init__(self, rows: Tensor, history: Tensor) -> None:
        self.rows, self._history = rows, history
        self.fresh = rows[:, history.shape[1] :]
        rows[:, : history.shape[1]].copy_(history)

    def complete(self) -> Tensor:
        """All rows, once the fresh ones are written; the newest are kept for the next call."""
        self._history.copy_(self.rows[:, self.rows.shape[1] - self._history.shape[1] :])
        return self.rows


def convolve(x: Tensor, history: Tensor, convolution: Product) -> Tensor:
    """[batch, rows, channels] to [batch, rows * stride, channels out]."""
    out = convolution(with_history(x, history) if convolution.taps > 1 else x)
    return out.reshape(x.shape[0], x.shape[1] * convolution.stride, -1)


def convnext(x: Tensor, history: Tensor, block: ConvNext) -> Tensor:
    """Depthwise convolution, norm, two projections around a GELU, added to the input."""
    rows = with_history(x, history)
    length = x.shape[1]
    mixed = block.depthwise_bias + rows[:, :length] * block.depthwise[0]
    for tap in range(1, block.depthwise.shape[0]):
        mixed = torch.addcmul(mixed, rows[:, tap : tap + length], block.depthwise[tap])
    normal = fn.layer_norm(mixed, mixed.shape[-1:], eps=block.epsilon)
    return x + block.narrow(fn.gelu(block.widen(normal)))


def waveform(x: Tensor, histories: list[Tensor], weights: WaveformWeights) -> Tensor:
    """[streams, rows, channels] to float32 samples [streams, rows * 480] in [-1, 1].

    ``histories``: of every convolution over more than one row, in the order of computation.
    """
    before = iter(histories)
    x = convolve(x, next(before), weights.enter)
    for block in weights.blocks:
        x = _residual_block(x, before, block)
    x = convolve(snake(x, weights.snake), next(before), weights.leave)
    return x.squeeze(-1).float().clamp_(-1.0, 1.0)


def _residual_block(x: Tensor, before: Iterator[Tensor], block: Block) -> Tensor:
    x = convolve(snake(x, block.snake), next(before), block.upsample)
    for unit in block.units:
        hidden = convolve(snake(x, unit.snake_in), next(before), unit.dilated)
        x = x + unit.project(snake(hidden, unit.snake_out))
    return x
