"""From codes to what the waveform part reads, in plain torch around the products that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from . import layers
from .transformer import transform
from .weights import DecoderWeights


class Latents(Protocol):
    """A way to compute them."""

    def __call__(self, codes: Tensor, position: Tensor, views: Iterator[Tensor]) -> Tensor:
        """[batch, codebooks, frames] to rows [batch, rows, channels].

        ``position`` [batch] and the parts of the state that ``views`` gives in the order of computation are
        moved on in place; views that belong to the waveform part are left.
        """


class PlainLatents:
    """One operation of torch after the other."""

    def __init__(self, weights: DecoderWeights) -> None:
        self._codebooks, self._pre = weights.codebooks, weights.pre
        self._transformer, self._upsamples = weights.transformer, weights.upsamples

    def __call__(self, codes: Tensor, position: Tensor, views: Iterator[Tensor]) -> Tensor:
        """As :class:`Latents`."""
        x = self._codebooks[0][codes[:, 0]]
        for index in range(1, len(self._codebooks)):
            x = x + self._codebooks[index][codes[:, index]]
        x = layers.convolve(x, next(views), self._pre)
        windows = [next(views) for _ in range(2 * len(self._transformer.layers))]
        x = transform(x, position, windows, self._transformer)
        position.add_(codes.shape[2])
        for upsample, convnext in self._upsamples:
            x = layers.convolve(x, next(views), upsample)
            x = layers.convnext(x, next(views), convnext)
        return x
