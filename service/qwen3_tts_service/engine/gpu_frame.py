"""A frame on the GPU by our own kernels: the same state and the same codes as ``FrameModel.frame``.

About 600 kernels a frame, every one of which a graph can hold: nothing here waits for the device or reads from
it. Needs Triton, which the GPU builds of torch bring along.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import kernels
from .frame import CODE_GROUPS, FrameModel
from .linear import Int8Matrix, Matrix, rounded
from .sampling import MIN_FRAMES
from .transformer import Stack

#: Outputs of a product that one program makes: few, so that even a small matrix is asked for by many programs.
BLOCK_OUT = 16


@dataclass(frozen=True)
class Tile:
    """How one program reads a matrix: inputs at a time, warps, and loads in flight ahead of the product."""

    inputs: int
    warps: int
    stages: int


def _parts(matrix: Matrix) -> tuple[Tensor, Tensor | None]:
    """The values [out, in] of a matrix, and a scale for each row where they are bytes."""
    if isinstance(matrix, Int8Matrix):
        return matrix
    assert isinstance(matrix, Tensor), "a CPU's order"
    return matrix, None


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def tile_of(inputs: int, *, gated: bool, bytes_a_number: int) -> Tile:
    """How to read a matrix with that many inputs; the fastest of those measured on an H200."""
    stretch = inputs // (2 if gated else 4)
    widest = stretch & -stretch
    if bytes_a_number > 2:
        # float32 takes no matrix unit: its products are written out one by one, and a wide tile of them takes
        # the compiler eight seconds where this takes two.
        widest = min(widest, 32)
    if torch.version.hip is not None:
        # RDNA has 64 KiB of local memory for a program, an H200 227.
        return Tile(min(widest, 64), 2, 2)
    return Tile(min(widest, 64 if stretch <= 256 else 128), 2, 3)


class _Scratch:
    """What the kernels of one stack hand to each other, a row per slot."""

    def __init__(self, stack: Stack, slots: int) -> None:
        weights = stack.weights
        layer = weights.layers[0]
        qkv, mlp = _parts(layer.qkv)[0].shape[0], _parts(layer.down)[0].shape[1]
        hidden, attended = _parts(layer.output)[0].shape
        if hidden & (hidden - 1):
            raise ValueError(f"the kernels take hidden sizes that are powers of two, not {hidden}")
        self.heads = attended // weights.head_dim
        positions = stack.cache.keys[0].shape[2]
        self.part = min(kernels.PART, positions)
        self.parts = -(-positions // self.part)
        like = weights.norm
        self.x = like.new_zeros(slots, hidden)
        self.qkv = like.new_zeros(slots, qkv)
        self.attended = like.new_zeros(slots, attended)
        self.gated = like.new_zeros(slots, mlp)
        self.eps = weights.eps
        self.squares = torch.zeros(slots, hidden // BLOCK_OUT, device=like.device)
        self.mixed = torch.zeros(slots, self.heads, self.parts, weights.head_dim, device=like.device)
        self.extremes = torch.zeros(slots, self.heads, self.parts, 2, device=like.device)
        # In fp32, whatever the weights are: the kernels rotate in it.
        self.cos = weights.cos[:, 0].float().contiguous()
        self.sin = weights.sin[:, 0].float().contiguous()


class GPUFrame:
    """Runs ``model``'s frames by the kernels. Folds the norms' gains into its matrices, once and in place.

    ``frame(batch)`` changes ``model.state`` as ``model.frame`` does; its attention's cost follows each row's own
    position. The newest frame's logits stay in ``logits`` [slots, vocabulary] for codebook 0 and in
    ``inner_logits`` [15, slots, tokens] for the others.
    """

    def __init__(self, model: FrameModel) -> None:
        self.model = model
        self._fold(model)
        slots, state = model.slots, model.state
        self._talker = _Scratch(model.talker, slots)
        self._predictor = _Scratch(model.predictor, slots)
        like = model.embedding
        self.logits = torch.zeros(slots, model.embedding.shape[0], device=like.device)
        inner = (len(model.heads), slots, model.embeddings.shape[1])
        self.inner_logits = torch.zeros(inner, device=like.device)
        self._hidden = like.new_zeros(slots, like.shape[1])
        self._inner = like.new_zeros(slots, model.first_input.shape[1])
        self._suppressed_from = int(model.suppressed.nonzero()[0])
        self._codes = torch.zeros(slots, CODE_GROUPS, dtype=torch.int32, device=like.device)
        self._steps = torch.arange(CODE_GROUPS, device=like.device)[:, None].repeat(1, slots)
        # One byte each is what the kernels read and write.
        self._flags: dict[str, Tensor] = {
            name: getattr(state, name).view(torch.uint8) for name in ("seen", "active", "done", "greedy")
        }

    @staticmethod
    def _fold(model: FrameModel) -> None:
        """Move each norm's gain into the matrices behind it; the plain frame computes the same afterwards."""

        def into(matrix: Matrix, gain: Tensor) -> None:
            values, scales = _parts(matrix)
            if scales is None:
                values.copy_(values.float() * gain.float())
            else:
                again = rounded(values.float() * scales.float()[:, None] * gain.float())
                values.copy_(again.values)
                scales.copy_(again.scales)

        with torch.no_grad():
            for stack in (model.talker, model.predictor):
                for layer in stack.weights.layers:
                    into(layer.qkv, layer.input_norm)
                    into(layer.gate_up, layer.mlp_norm)
                    layer.input_norm.fill_(1)
                    layer.mlp_norm.fill_(1)
            for head in model.heads:
                into(head, model.predictor.weights.norm)
            model.predictor.weights.norm.fill_(1)

    def frame(self, batch: int, length: int = 0) -> None:
        """One frame of the first ``batch`` slots. ``length`` is not needed: every row knows its position."""
        model, state, talker, predictor = self.model, self.model.state, self._talker, self._predictor
        kernels.measure[(batch,)](
            state.x,
            talker.squares,
            WIDTH=state.x.shape[1],
            PARTS=talker.squares.shape[1],
            BLOCK=_power_of_two(state.x.shape[1]),
        )
        self._stack(model.talker, talker, state.x, state.position, batch)
        self._normalise(batch)
        self._project(self._hidden, model.head, self.logits, batch)
        # The talker's output and codebook 0 stand at the predictor's positions 0 and 1.
        first = self._hidden
        if model.projection is not None:
            weight, first = model.projection[0], self._inner
            self._project(
                self._hidden, weight, first, batch, bias=model.projection[1], squares=predictor.squares
            )
        self._stack(model.predictor, predictor, first, self._steps[0], batch, only_cache=True)
        self._sample(self.logits, 0, model.first_input, batch)
        for group, head in enumerate(model.heads):
            self._stack(model.predictor, predictor, self._inner, self._steps[group + 1], batch)
            self._project(predictor.x, head, self.inner_logits[group], batch, norm_of=predictor)
            self._sample(self.inner_logits[group], group + 1, model.inputs[group], batch)
        self._advance(batch)

    def newest_logits(self) -> list[Tensor]:
        """Each codebook's logits [slots, tokens] of the newest frame, before penalty and bars."""
        return [self.logits, *self.inner_logits]

    def _stack(
        self,
        stack: Stack,
        scratch: _Scratch,
        x: Tensor,
        position: Tensor,
        batch: int,
        *,
        only_cache: bool = False,
    ) -> None:
        """x [batch, hidden] through all layers into ``scratch.x``; ``only_cache``: as far as the last keys."""
        final = len(stack.weights.layers) - 1
        for index, layer in enumerate(stack.weights.layers):
            self._project(x, layer.qkv, scratch.qkv, batch, norm_of=scratch)
            last = only_cache and index == final
            self._attend(stack, scratch, index, position, batch, only_cache=last)
            if last:
                return
            output = layer.output
            self._project(scratch.attended, output, scratch.x, batch, residual=x, squares=scratch.squares)
            x = scratch.x
            self._project(x, layer.gate_up, scratch.gated, batch, norm_of=scratch, gated=True)
            self._project(scratch.gated, layer.down, x, batch, residual=x, squares=scratch.squares)

    def _project(
        self,
        x: Tensor,
        matrix: Matrix,
        output: Tensor,
        batch: int,
        *,
        gated: bool = False,
        norm_of: _Scratch | None = None,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        squares: Tensor | None = None,
    ) -> None:
        weight, scale = _parts(matrix)
        outputs, inputs = weight.shape[0] // (2 if gated else 1), weight.shape[1]
        tile = tile_of(inputs, gated=gated, bytes_a_number=x.element_size())
        # With twice the rows twice the warps: each then adds up the same columns in the same order.
        tiles = 1 if batch <= kernels.ROWS else 2
        rows = tiles * kernels.ROWS
        kernels.project[(-(-batch // rows), outputs // BLOCK_OUT)](
            x,
            weight,
            scale,
            None if norm_of is None else norm_of.squares,
            bias,
            residual,
            output,
            squares,
            batch,
            x.stride(0),
            output.stride(0),
            0.0 if norm_of is None else norm_of.eps,
            OUT=outputs,
            IN=inputs,
            NORM_PARTS=0 if norm_of is None else norm_of.squares.shape[1],
            SQUARES=squares is not None,
            GATED=gated,
            BIAS=bias is not None,
            ADD=residual is not None,
            INT8=scale is not None,
            ROWS=rows,
            BLOCK_OUT=BLOCK_OUT,
            BLOCK_IN=tile.inputs,
            STAGES=tile.stages,
            num_warps=tiles * tile.warps,
        )

    def _attend(
        self,
        stack: Stack,
        scratch: _Scratch,
        index: int,
        position: Tensor,
        batch: int,
        *,
        only_cache: bool,
    ) -> None:
        weights = stack.weights
        layer, keys = weights.layers[index], stack.cache.keys[index]
        shape = {"HEADS": scratch.heads, "DIM": weights.head_dim, "PARTS": scratch.parts}
        kernels.attend[(batch, weights.kv_heads, 1 if only_cache else scratch.parts)](
            scratch.qkv,
            layer.q_norm,
            layer.k_norm,
            scratch.cos,
            scratch.sin,
            keys,
            stack.cache.values[index],
            position,
            scratch.mixed,
            scratch.extremes,
            scratch.attended,
            keys.stride(0),
            keys.stride(1),
            weights.eps,
            **shape,
            KV_HEADS=weights.kv_heads,
            PART=scratch.part,
            BLOCK=min(scratch.part, kernels.PART_BLOCK),
            ROWS=kernels.ROWS,
            ONLY_CACHE=only_cache,
            num_warps=4,
        )
        if scratch.parts > 1:
            kernels.add_parts[(batch, scratch.heads)](
                scratch.mixed,
                scratch.extremes,
                position,
                scratch.attended,
                **shape,
                PART=scratch.part,
                BLOCK=16,
                num_warps=4,
            )

    def _normalise(self, batch: int) -> None:
        width = self._hidden.shape[1]
        kernels.normalise[(batch,)](
            self._talker.x,
            self.model.talker.weights.norm,
            self._hidden,
            self._predictor.squares,
            self._talker.eps,
            WIDTH=width,
            PARTS=self._predictor.squares.shape[1],
            BLOCK=_power_of_two(width),
        )

    def _sample(self, logits: Tensor, codebook: int, table: Tensor, batch: int) -> None:
        model, state, first = self.model, self.model.state, codebook == 0
        vocabulary, width = table.shape
        kernels.sample[(batch,)](
            logits,
            self._flags["seen"],
            state.step,
            state.seed,
            state.temperature if first else state.subtalker_temperature,
            state.top_k if first else state.subtalker_top_k,
            state.top_p if first else state.subtalker_top_p,
            state.repetition_penalty,
            self._flags["greedy"],
            self._codes,
            table,
            self._inner,
            self._predictor.squares,
            codebook,
            self._suppressed_from,
            model.eos,
            MIN_FRAMES,
            VOCABULARY=vocabulary,
            CODEBOOKS=CODE_GROUPS,
            WIDTH=width,
            FIRST=first,
            BLOCK=_power_of_two(vocabulary),
            BLOCK_WIDTH=_power_of_two(width),
            SQUARES=self._predictor.squares.shape[1],
            BITS=2,
            num_warps=8,
        )

    def _advance(self, batch: int) -> None:
        model, state = self.model, self.model.state
        width = state.x.shape[1]
        kernels.advance[(batch,)](
            state.codes,
            self._codes,
            model.embeddings,
            model.embedding,
            self._flags["seen"],
            state.trailing,
            state.trailing_length,
            model.pad,
            state.x,
            state.position,
            state.step,
            state.max_frames,
            self._flags["active"],
            self._flags["done"],
            state.trailing.stride(0),
            model.eos,
            model.max_trailing - 1,
            CODEBOOKS=CODE_GROUPS,
            WIDTH=width,
            VOCABULARY=model.embedding.shape[0],
            TABLE=model.embeddings.shape[1],
            BLOCK=_power_of_two(width),
            num_warps=8,
        )
