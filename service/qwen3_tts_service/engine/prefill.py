"""Reading a prompt on a GPU: compiled layers, and one graph per length.

While a prompt is read, every running stream waits. Plain torch launches sixty kernels a layer, which takes the
host longer than the GPU; compiled they are about ten, and a graph launches all of them at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .compiled import compiled_layer
from .frame import FrameModel

_SHORTEST = 128
#: At most this many lengths: each is compiled and captured at every start.
MOST_LENGTHS = 5


def lengths(positions: int) -> list[int]:
    """What prompts of slots with ``positions`` are filled up to, the next that is long enough; ascending.

    Each is twice the one before, or four times where twice would be too many.
    """
    factor = 2
    while _SHORTEST * factor ** (MOST_LENGTHS - 1) < positions:
        factor *= 2
    steps = (_SHORTEST * factor**step for step in range(MOST_LENGTHS))
    return [length for length in steps if length < positions] + [positions]


class CapturedPrefill:
    """Fills a slot's keys and values, as ``FrameModel.prefill`` does."""

    def __init__(self, model: FrameModel) -> None:
        """Compile and capture every length, on the current stream, which must not be the device's default one.

        Raises what compiler or driver raise where that does not work.
        """
        self._model = model
        self._layer = compiled_layer("prompt_layer")
        cache = model.talker.cache.keys[0]
        self._slot = torch.zeros(1, dtype=torch.int64, device=model.device)
        self._embeds = cache.new_zeros(1, model.positions, model.embedding.shape[1])
        self._keys = cache.new_zeros(1, cache.shape[1], model.positions, cache.shape[3])
        self._values = torch.zeros_like(self._keys)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        pool = None
        for length in reversed(lengths(model.positions)):
            self._run(length)
            graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.current_stream(model.device)
            # Other threads may use the GPU meanwhile: another model serves.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._run(length)
            pool = pool or graph.pool()
            self._graphs[length] = graph

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that were captured, from short to long."""
        return tuple(sorted(self._graphs))

    def __call__(self, slot: int, embeds: Tensor) -> None:
        """Read embeds [positions, hidden] into ``slot``; does not wait for it."""
        count = len(embeds)
        if count == 0:
            return
        length = next(length for length in self.lengths if length >= count)
        self._slot.fill_(slot)
        # What a longer prompt left behind it is read too, but only by its own kind.
        self._embeds[0, :count] = embeds
        self._graphs[length].replay()

    def _run(self, length: int) -> None:
        model = self._model
        weights, cache = model.talker.weights, model.talker.cache
        position = torch.arange(length, device=model.device)[None]
        mask = model.mask(position, length)
        cos, sin = weights.cos[position], weights.sin[position]
        own_keys, own_values = self._keys[:, :, :length], self._values[:, :, :length]
        # As long in memory as it is, like the layers' outputs: else the first layer needs a version of its own.
        x = self._embeds[:, :length].clone(memory_format=torch.contiguous_format)
        for layer, keys, values in zip(weights.layers, cache.keys, cache.values, strict=True):
            x = self._layer(x, layer, own_keys, own_values, cos, sin, position, mask, weights.eps)
            keys[:, :, :length].index_copy_(0, self._slot, own_keys)
            values[:, :, :length].index_copy_(0, self._slot, own_values)
