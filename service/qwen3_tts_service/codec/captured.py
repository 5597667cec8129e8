"""Decodes as graphs of a GPU: one call of the host each, where plain decodes are hundreds.

The thread that decodes shares its interpreter with the one that launches frames, and a GPU waits for neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: Codes [batch, codebooks, frames], memory [batch, size] and positions [batch] of the streams, which move on:
#: to samples [batch, frames * 1920].
Program = Callable[[Tensor, Tensor, Tensor], Tensor]


class CapturedDecodes:
    """``program`` for the sizes that it was captured for; all of them compute in the same memory.

    ``size`` and ``dtype`` are those of a stream's memory. One thread at a time.
    """

    def __init__(
        self, program: Program, *, codebooks: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._program, self._codebooks = program, codebooks
        self._size, self._dtype, self._device = size, dtype, device
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def capture(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Capture (batch, frames) in ``shapes`` on the current stream. Raises what the driver raises."""
        batch = max(batch for batch, _ in shapes)
        memory = torch.zeros(batch, self._size, dtype=self._dtype, device=self._device)
        position = torch.zeros(batch, dtype=torch.int64, device=self._device)
        pool = torch.cuda.graph_pool_handle()
        shapes = sorted(shapes, key=math.prod, reverse=True)
        inputs = {
            shape: torch.zeros(shape[0], self._codebooks, shape[1], dtype=torch.int64, device=self._device)
            for shape in shapes
        }
        # First all of them as they are: what is compiled at first use is compiled, and the activations' memory
        # is as large as it will ever be, before a graph remembers where it lies.
        for (batch, _), codes in inputs.items():
            self._program(codes, memory[:batch], position[:batch])
        torch.cuda.current_stream(self._device).synchronize()
        graphs: dict[tuple[int, int], _Graph] = {}
        for (batch, frames), codes in inputs.items():
            graphs[batch, frames] = _Graph(self._program, codes, memory[:batch], position[:batch], pool)
        self._graphs = graphs

    def decode(self, codes: Tensor, memories: Sequence[Tensor], positions: Sequence[Tensor]) -> Tensor | None:
        """As the program, on the memories and positions of states side by side; None: not captured."""
        graph = self._graphs.get((codes.shape[0], codes.shape[2]))
        return None if graph is None else graph.run(codes, memories, positions)


class _Graph:
    def __init__(self, program: Program, codes: Tensor, memory: Tensor, position: Tensor, pool: Any) -> None:
        self._codes, self._memory, self._position = codes, memory, position
        self._graph = torch.cuda.CUDAGraph()
        # On this stream, whose priority the graph's kernels keep; the default one cannot be captured. Other threads
        # may use the GPU meanwhile.
        stream: torch.cuda.Stream | None = torch.cuda.current_stream()
        if stream == torch.cuda.default_stream():
            stream = None
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._sound = program(codes, memory, position)

    def run(self, codes: Tensor, memories: Sequence[Tensor], positions: Sequence[Tensor]) -> Tensor:
        self._codes.copy_(codes, non_blocking=True)
        torch.cat(list(memories), out=self._memory)
        torch.cat(list(positions), out=self._position)
        self._graph.replay()
        batches = [len(position) for position in positions]
        for kept, moved in zip(memories, torch.split(self._memory, batches), strict=True):
            kept.copy_(moved)
        for kept, moved in zip(positions, torch.split(self._position, batches), strict=True):
            kept.copy_(moved)
        # The next run writes over it.
        return self._sound.clone()
