"""Decodes as graphs of a GPU: one call of the host each, where plain decodes are hundreds.

The thread that decodes shares its interpreter with the one that launches frames, and a GPU waits for neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .state import DecoderState

#: Codes [batch, codebooks, frames] of the streams of a state, which moves on: to samples [batch, frames * 1920].
Program = Callable[[Tensor, DecoderState], Tensor]


class CapturedDecodes:
    """``program`` for the sizes that it was captured for; all of them compute in the memory of one state.

    ``new_state`` makes one of so many streams, ``codebooks`` is how many codes a frame has. One thread at a time.
    """

    def __init__(self, program: Program, new_state: Callable[[int], DecoderState], codebooks: int) -> None:
        self._program, self._new_state, self._codebooks = program, new_state, codebooks
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def capture(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Capture (batch, frames) in ``shapes`` on the current stream. Raises what the driver raises."""
        state = self._new_state(max(batch for batch, _ in shapes))
        device = state.memory.device
        shapes = sorted(shapes, key=math.prod, reverse=True)
        inputs = {
            (batch, frames): torch.zeros(batch, self._codebooks, frames, dtype=torch.int64, device=device)
            for batch, frames in shapes
        }
        # First all of them as they are: what is compiled at first use is compiled, and the activations' memory
        # is as large as it will ever be, before a graph remembers where it lies.
        for (batch, _), codes in inputs.items():
            self._program(codes, state.first(batch))
        torch.cuda.current_stream(device).synchronize()
        pool = torch.cuda.graph_pool_handle()
        self._graphs = {
            (batch, frames): _Graph(self._program, codes, state.first(batch), pool)
            for (batch, frames), codes in inputs.items()
        }

    def decode(self, codes: Tensor, members: Sequence[DecoderState]) -> Tensor | None:
        """As the program, on the streams of ``members`` side by side; None: not captured."""
        graph = self._graphs.get((codes.shape[0], codes.shape[2]))
        return None if graph is None else graph.run(codes, members)


class _Graph:
    def __init__(self, program: Program, codes: Tensor, state: DecoderState, pool: Any) -> None:
        self._codes, self._state = codes, state
        self._graph = torch.cuda.CUDAGraph()
        # On this stream, whose priority the graph's kernels keep; the default one cannot be captured. Other threads
        # may use the GPU meanwhile.
        stream: torch.cuda.Stream | None = torch.cuda.current_stream()
        if stream == torch.cuda.default_stream():
            stream = None
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._sound = program(codes, state)

    def run(self, codes: Tensor, members: Sequence[DecoderState]) -> Tensor:
        self._codes.copy_(codes, non_blocking=True)
        self._state.take(members)
        self._graph.replay()
        self._state.give_back(members)
        # The next run writes over it.
        return self._sound.clone()
