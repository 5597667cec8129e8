"""What kernels compiled for a device are to the decoder: :mod:`.kernels` on a CPU, :mod:`.gpu_kernels` on a GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .latents import Latents
from .weights import Convolution, DecoderWeights, Product, Snake


@dataclass
class Target:
    """Where the result of a convolution goes, [streams, rows, channels] each, a stream's rows side by side.

    A row that makes ``stride`` rows writes them where one of as many channels would lie.
    """

    #: float32; added to the result.
    residual: Tensor | None = None
    #: float32, as far apart from stream to stream as ``residual``: the sum.
    out: Tensor | None = None
    #: In the kernels' dtype: the sum through the SnakeBeta that the convolution was packed with.
    activated: Tensor | None = None


class PackedProduct(ABC):
    """A :class:`.weights.Product` in the form that kernels read."""

    def __init__(self, convolution: Product) -> None:
        self.taps, self.stride = convolution.taps, convolution.stride
        self.channels, self.width = convolution.channels, convolution.width
        self.history = convolution.history

    @abstractmethod
    def __call__(self, rows: Tensor) -> Tensor:
        """As :meth:`Product.__call__`, through the kernels."""


class DecoderKernels(Protocol):
    """What is compiled for a device, for rows of one dtype."""

    dtype: torch.dtype

    def latents(self, weights: DecoderWeights) -> Latents:
        """What stands in front of the waveform part."""

    def pack(self, convolution: Convolution, then: Snake | None = None) -> PackedProduct:
        """``convolution`` as :meth:`convolve` takes it, with the SnakeBeta that its result goes through."""

    def pack_last(self, convolution: Convolution) -> PackedProduct:
        """The convolution to one channel, as :meth:`leave` takes it."""

    def convolve(self, packed: Any, source: Tensor, target: Target) -> None:
        """``source`` [streams, history + rows, channels], rows side by side; ``rows`` are computed."""

    def unit(self, dilated: Any, project: Any, source: Tensor, target: Target, between: Tensor) -> None:
        """Both, one after the other; ``between`` [streams, rows, channels] is room for what lies between them."""

    def leave(self, packed: Any, source: Tensor, sound: Tensor) -> None:
        """To one channel: ``sound`` [streams, rows] float32, clamped to [-1, 1]."""
