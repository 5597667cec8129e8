"""From codes to what the waveform part reads, on a GPU, by kernels that do all between two products at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as fn
import triton
from torch import Tensor

from . import latent_kernels
from .device_kernels import DecoderKernels, Target
from .layers import Input, with_history
from .tiles import LEAST_ROWS
from .weights import ConvNext, DecoderWeights, Product, TransformerLayer, replace_products

_GATE_BLOCK = 1024
#: Rows of the window that attention takes at a time, and its warps: more rows do not fit into registers.
_WINDOW_BLOCK, _ATTENTION_WARPS = (16, 8) if torch.version.hip else (32, 4)


class GPULatents:
    """What :class:`.latents.PlainLatents` computes, with residuals in float32 whatever the rows are.

    ``precision`` is how Triton multiplies the rows that meet in attention.
    """

    def __init__(self, weights: DecoderWeights, kernels: DecoderKernels, precision: str) -> None:
        weights = replace_products(weights, kernels.pack)
        self._kernels, self._precision = kernels, precision
        self._codebooks, self._pre = weights.codebooks, weights.pre
        self._transformer, self._upsamples = weights.transformer, weights.upsamples

    def __call__(self, codes: Tensor, position: Tensor, views: Iterator[Tensor]) -> Tensor:
        """As :class:`.latents.Latents`."""
        source = self._input(codes.shape[0], codes.shape[2], next(views))
        self._embed(codes, source.fresh)
        x = self._new(source.fresh, self._pre.width, torch.float32)
        self._kernels.convolve(self._pre, source.complete(), Target(out=x))
        transformer = self._transformer
        for layer in transformer.layers:
            mixed = self._attended(layer, x, position, next(views), next(views))
            self._add(layer.output, mixed, x)
            self._add(layer.down, self._gated(layer.gate_up(self._normed(x))), x)
        position.add_(codes.shape[2])
        rows = self._normed(x)
        for upsample, convnext in self._upsamples:
            rows = self._upsampled(rows, next(views), next(views), upsample, convnext)
        return rows

    def _input(self, streams: int, rows: int, history: Tensor) -> Input:
        """For ``rows`` rows that are about to be written behind ``history``."""
        return Input(history.new_empty(streams, history.shape[1] + rows, history.shape[2]), history)

    def _new(self, like: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
        return like.new_empty(*like.shape[:2], width, dtype=dtype or self._kernels.dtype)

    def _embed(self, codes: Tensor, out: Tensor) -> None:
        streams, tables, frames = codes.shape
        _, size, channels = self._codebooks.shape
        latent_kernels.embed[(streams * frames,)](
            codes.contiguous(), self._codebooks, out, out.stride(0), frames, tables, size, channels,
            BLOCK=triton.next_power_of_2(channels),
        )  # fmt: skip

    def _add(self, product: Product, source: Tensor, x: Tensor) -> None:
        """The product on top of ``x``."""
        self._kernels.convolve(product, source, Target(residual=x, out=x))

    def _normed(self, x: Tensor) -> Tensor:
        streams, rows, width = x.shape
        out = self._new(x, width)
        latent_kernels.rms_norm[(streams * rows,)](
            x, out, width, self._transformer.epsilon, BLOCK=triton.next_power_of_2(width)
        )
        return out

    def _gated(self, rows: Tensor) -> Tensor:
        width = rows.shape[2] // 2
        out = self._new(rows, width)
        grid = (rows.shape[0] * rows.shape[1], triton.cdiv(width, _GATE_BLOCK))
        latent_kernels.gate[grid](rows, out, width, BLOCK=_GATE_BLOCK)
        return out

    def _attended(
        self, layer: TransformerLayer, x: Tensor, position: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        weights = self._transformer
        streams, frames, _ = x.shape
        out = self._new(x, weights.heads * weights.head_dim)
        latent_kernels.attend[(streams * weights.kv_heads,)](
            layer.qkv(self._normed(x)),
            keys,
            values,
            position,
            weights.inverse_frequencies,
            out,
            frames,
            keys.shape[1],
            keys.stride(0),
            weights.rope_scale,
            weights.head_dim**-0.5,
            GROUP=weights.heads // weights.kv_heads,
            KV_HEADS=weights.kv_heads,
            HEAD_DIM=weights.head_dim,
            FRAMES=max(LEAST_ROWS, triton.next_power_of_2(frames)),
            BLOCK=_WINDOW_BLOCK,
            PRECISION=self._precision,
            num_warps=_ATTENTION_WARPS,
        )
        return out

    def _upsampled(
        self, rows: Tensor, before: Tensor, history: Tensor, upsample: Product, convnext: ConvNext
    ) -> Tensor:
        streams, frames = rows.shape[0], rows.shape[1] * upsample.stride
        taps, channels = convnext.depthwise.shape
        x = rows.new_empty(streams, frames, channels, dtype=torch.float32)
        source = self._input(streams, frames, history)
        if upsample.taps > 1:
            rows = with_history(rows, before)
        self._kernels.convolve(upsample, rows, Target(out=x, activated=source.fresh))
        mixed = self._new(x, channels)
        latent_kernels.mix_rows[(streams * frames,)](
            source.complete(), convnext.depthwise, convnext.depthwise_bias, mixed,
            frames, taps, channels, convnext.epsilon,
            BLOCK=triton.next_power_of_2(channels),
        )  # fmt: skip
        out = self._new(x, channels)
        wide = fn.gelu(convnext.widen(mixed))
        self._kernels.convolve(convnext.narrow, wide, Target(residual=x, activated=out))
        return out
