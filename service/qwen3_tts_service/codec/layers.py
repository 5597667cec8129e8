"""The decoder's operations in plain torch: any device, any dtype, nothing compiled.

Activations are ``[batch, rows, channels]``, one row a time step. ``history`` holds the rows that came before,
as a view into the stream's state, and is moved on in place.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as fn
from torch import Tensor

from .weights import Block, ConvNext, Convolution, Snake, WaveformWeights


def snake(x: Tensor, activation: Snake) -> Tensor:
    """SnakeBeta with its exponentials already taken."""
    return torch.addcmul(x, activation.depth, torch.sin(x * activation.frequency).square_())


def with_history(x: Tensor, history: Tensor) -> Tensor:
    """``history`` and ``x`` as one; ``history`` [batch, rows, channels] then holds the newest rows of both."""
    rows = torch.cat((history, x), dim=1)
    history.copy_(rows[:, rows.shape[1] - history.shape[1] :])
    return rows


def convolve(x: Tensor, history: Tensor, convolution: Convolution) -> Tensor:
    """[batch, rows, channels] to [batch, rows * stride, channels out]."""
    if convolution.taps == 1:
        out = fn.linear(x, convolution.weight, convolution.bias)
    elif x.is_cpu:
        out = _library_convolution(with_history(x, history), convolution)
    else:
        out = _product_over_windows(with_history(x, history), convolution)
    return out.reshape(x.shape[0], x.shape[1] * convolution.stride, -1)


def _library_convolution(rows: Tensor, convolution: Convolution) -> Tensor:
    """Through the library's convolution, which reads rows of channels without a copy (channels last)."""
    kernel = convolution.weight.view(-1, convolution.taps, convolution.channels).permute(0, 2, 1).unsqueeze(2)
    image = rows.unsqueeze(1).permute(0, 3, 1, 2)
    return (
        fn.conv2d(image, kernel, convolution.bias, dilation=(1, convolution.dilation))
        .squeeze(2)
        .transpose(1, 2)
    )


def _product_over_windows(rows: Tensor, convolution: Convolution) -> Tensor:
    """As one matrix product. GPUs: no convolution library is asked, so none can search for kernels."""
    batch, length, channels = rows.shape
    windows = rows.as_strided(
        (batch, length - convolution.history, convolution.taps, channels),
        (rows.stride(0), channels, convolution.dilation * channels, 1),
    )
    return fn.linear(windows.flatten(2), convolution.weight, convolution.bias)


def convnext(x: Tensor, history: Tensor, block: ConvNext) -> Tensor:
    """Depthwise convolution, norm, two projections around a GELU, added to the input."""
    rows = with_history(x, history)
    length = x.shape[1]
    mixed = block.depthwise_bias + rows[:, :length] * block.depthwise[0]
    for tap in range(1, block.depthwise.shape[0]):
        mixed = torch.addcmul(mixed, rows[:, tap : tap + length], block.depthwise[tap])
    normal = fn.layer_norm(mixed, mixed.shape[-1:], eps=block.epsilon)
    wide = fn.gelu(fn.linear(normal, block.widen.weight, block.widen.bias))
    return x + fn.linear(wide, block.narrow.weight, block.narrow.bias)


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
        x = x + fn.linear(snake(hidden, unit.snake_out), unit.project.weight, unit.project.bias)
    return x
