"""Upstream's decoder weights in the form that the streaming decoder computes with.

Every convolution of the decoder is causal, and so is every transposed one once upstream has trimmed its right
end: with kernel ``k`` and stride ``s``, output sample ``t * s + j`` is a sum over the inputs ``t, t - 1, ...``
with the kernel's columns ``j, j + s, ...``. That is a causal convolution with ``ceil(k / s)`` taps and ``s``
times as many channels, whose rows are then read as ``s`` rows each. So one primitive, :class:`Convolution`,
carries everything from the latent to the waveform.

What is linear and meets without anything in between is multiplied out in float64: codebooks with their output
projections, the convolution in front of the transformer with the transformer's input projection, the output
projection with the first transposed convolution, norm weights and layer scales with the projections beside
them, and SnakeBeta's exponentials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from ..errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Snake:
    """SnakeBeta (arXiv 2006.08195 with separate magnitude): ``x + depth * sin(frequency * x) ** 2``."""

    frequency: Tensor  # [channels], the exponential is taken
    depth: Tensor  # [channels], inverted


class Product(Protocol):
    """A causal convolution over rows of channels, or with one tap a projection."""

    @property
    def taps(self) -> int: ...

    @property
    def stride(self) -> int:
        """Rows of output from one row of input."""

    @property
    def channels(self) -> int:
        """Channels of an input row."""

    @property
    def width(self) -> int:
        """Numbers that one row of input makes: ``stride`` rows of the output's channels."""

    @property
    def history(self) -> int:
        """Rows of input that an output needs from before it."""

    def __call__(self, rows: Tensor) -> Tensor:
        """[batch, history + n, channels] to [batch, n, out]."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A causal convolution written as a matrix product, and computed by torch.

    ``weight [out, taps * in]`` meets the rows ``t - (taps - 1) * dilation, ..., t - dilation, t`` laid side by
    side; ``stride`` is how many rows of the output one row of the input makes, ``out`` = stride * channels.
    """

    weight: Tensor
    bias: Tensor | None  # [out]
    taps: int = 1
    dilation: int = 1
    stride: int = 1

    @property
    def channels(self) -> int:
        return self.weight.shape[1] // self.taps

    @property
    def width(self) -> int:
        return self.weight.shape[0]

    @property
    def history(self) -> int:
        return (self.taps - 1) * self.dilation

    def __call__(self, rows: Tensor) -> Tensor:
        if self.taps == 1:
            return fn.linear(rows, self.weight, self.bias)
        return self._by_library(rows) if rows.is_cpu else self._by_windows(rows)

    def _by_library(self, rows: Tensor) -> Tensor:
        """Through the library's convolution, which reads rows of channels without a copy (channels last)."""
        kernel = self.weight.view(-1, self.taps, self.channels).permute(0, 2, 1).unsqueeze(2)
        image = rows.unsqueeze(1).permute(0, 3, 1, 2)
        out = fn.conv2d(image, kernel, self.bias, dilation=(1, self.dilation))
        return out.squeeze(2).transpose(1, 2)

    def _by_windows(self, rows: Tensor) -> Tensor:
        """As one matrix product. GPUs: no convolution library is asked, so none can search for kernels."""
        batch, length, channels = rows.shape
        windows = rows.as_strided(
            (batch, length - self.history, self.taps, channels),
            (rows.stride(0), channels, self.dilation * channels, 1),
        )
        return fn.linear(windows.flatten(2), self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class TransformerLayer:
    """Norm weights are folded into ``qkv`` and ``gate_up``, the layer scales into ``output`` and ``down``."""

    qkv: Product  # to (heads + 2 kv_heads) * head_dim
    output: Product
    gate_up: Product  # to 2 * mlp
    down: Product


@dataclass(frozen=True, eq=False)
class Transformer:
    """Eight layers over a sliding window, between two projections that are folded into their neighbours."""

    layers: list[TransformerLayer]
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    epsilon: float
    inverse_frequencies: Tensor  # [head_dim / 2] float32
    rope_scale: float


@dataclass(frozen=True, eq=False)
class ConvNext:
    """Depthwise convolution, norm (folded into ``widen``), two projections, layer scale (in ``narrow``)."""

    depthwise: Tensor  # [taps, channels]
    depthwise_bias: Tensor  # [channels]
    epsilon: float
    widen: Product
    narrow: Product


@dataclass(frozen=True, eq=False)
class ResidualUnit:
    """snake, convolution over seven dilated rows, snake, projection, added to the input."""

    snake_in: Snake
    dilated: Convolution
    snake_out: Snake
    project: Convolution


@dataclass(frozen=True, eq=False)
class Block:
    """snake, transposed convolution, three residual units."""

    snake: Snake
    upsample: Convolution
    units: list[ResidualUnit]


@dataclass(frozen=True, eq=False)
class WaveformWeights:
    """From four rows a frame to the waveform: nine tenths of the computation."""

    enter: Convolution
    blocks: list[Block]
    snake: Snake
    leave: Convolution  # to one channel


@dataclass(frozen=True, eq=False)
class DecoderWeights:
    """All of it, in the order of computation."""

    codebooks: Tensor  # [codebooks, codebook_size, channels]
    pre: Product
    transformer: Transformer
    upsamples: Sequence[tuple[Product, ConvNext]]
    waveform: WaveformWeights


def replace_products(weights: DecoderWeights, by: Callable[[Convolution], Product]) -> DecoderWeights:
    """The same decoder with every product in front of the waveform part computed in another way."""

    def replaced(part: Any) -> Any:
        if isinstance(part, Convolution):
            return by(part)
        if isinstance(part, WaveformWeights):
            return part
        if is_dataclass(part) and not isinstance(part, type):
            return replace(
                part, **{field.name: replaced(getattr(part, field.name)) for field in fields(part)}
            )
        if isinstance(part, list | tuple):
            return type(part)(replaced(item) for item in part)
        return part

    changed: DecoderWeights = replaced(weights)
    return changed


def fold(decoder: nn.Module, *, dtype: torch.dtype, device: torch.device) -> DecoderWeights:
    """The weights of upstream's ``Qwen3TTSTokenizerV2Decoder`` as new tensors; the module is left alone.

    Raises CheckpointError when the decoder has an activation that this package does not compute.
    """
    return _Folding(dtype, device).decoder(decoder)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _kernel_rows(module: Any) -> tuple[Tensor, Tensor]:
    """A causal convolution's kernel as [out, taps, in] and its bias [out], both float64."""
    return _double(module.conv.weight).permute(0, 2, 1), _double(module.conv.bias)


def _transposed_rows(module: Any) -> tuple[Tensor, Tensor, int]:
    """A transposed convolution as a causal one: kernel [stride * out, taps, in], bias, stride."""
    kernel = _double(module.conv.weight)  # [in, out, kernel size]
    channels_in, channels_out, size = kernel.shape
    stride = module.conv.stride[0]
    taps = -(-size // stride)
    padded = kernel.new_zeros(channels_in, channels_out, taps * stride)
    padded[..., :size] = kernel
    # [in, out, taps, stride]: tap 0 meets the newest row, so it comes last in the row order.
    columns = padded.view(channels_in, channels_out, taps, stride).flip(2)
    rows = columns.permute(3, 1, 2, 0).reshape(stride * channels_out, taps, channels_in)
    return rows, _double(module.conv.bias).repeat(stride), stride


@dataclass(frozen=True)
class _Folding:
    dtype: torch.dtype
    device: torch.device

    def ready(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype).contiguous()

    def convolution(self, rows: Tensor, bias: Tensor, dilation: int = 1, stride: int = 1) -> Convolution:
        return Convolution(self.ready(rows.flatten(1)), self.ready(bias), rows.shape[1], dilation, stride)

    def projection(self, weight: Tensor, bias: Tensor | None = None) -> Convolution:
        return Convolution(self.ready(weight), None if bias is None else self.ready(bias))

    def causal(self, module: Any) -> Convolution:
        return self.convolution(*_kernel_rows(module), dilation=module.dilation)

    def transposed(self, module: Any) -> Convolution:
        rows, bias, stride = _transposed_rows(module)
        return self.convolution(rows, bias, stride=stride)

    def snake(self, module: Any) -> Snake:
        depth = 1.0 / (_double(module.beta).exp() + module.no_div_by_zero)
        return Snake(self.ready(_double(module.alpha).exp()), self.ready(depth))

    def codebooks(self, quantizer: Any) -> Tensor:
        tables = []
        for group in (quantizer.rvq_first, quantizer.rvq_rest):
            project = group.output_proj
            for layer in group.vq.layers:
                book = layer._codebook
                usage = book.cluster_usage.detach().clamp(min=book.epsilon)[:, None]
                vectors = _double(layer.project_out(book.embedding_sum.detach() / usage))
                if not isinstance(project, nn.Identity):
                    vectors = vectors @ _double(project.weight)[..., 0].T
                tables.append(self.ready(vectors))
        return torch.stack(tables)

    def transformer_layer(self, layer: Any, head_dim: int) -> TransformerLayer:
        attention, mlp = layer.self_attn, layer.mlp
        norm_in, norm_mlp = (
            _double(layer.input_layernorm.weight),
            _double(layer.post_attention_layernorm.weight),
        )
        scale_in, scale_mlp = _double(layer.self_attn_layer_scale.scale), _double(layer.mlp_layer_scale.scale)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        biased = attention.q_proj.bias is not None
        gate_up = torch.cat([_double(mlp.gate_proj.weight), _double(mlp.up_proj.weight)])
        qkv = torch.cat([_double(projection.weight) for projection in projections]) * norm_in
        output = _double(attention.o_proj.weight) * scale_in[:, None]
        return TransformerLayer(
            qkv=self.projection(qkv, torch.cat([_double(p.bias) for p in projections]) if biased else None),
            output=self.projection(output, _double(attention.o_proj.bias) * scale_in if biased else None),
            gate_up=self.projection(gate_up * norm_mlp),
            down=self.projection(_double(mlp.down_proj.weight) * scale_mlp[:, None]),
        )

    def transformer(self, module: Any) -> Transformer:
        config = module.config
        if config.hidden_act != "silu":
            raise CheckpointError(
                f"the codec's transformer has the activation {config.hidden_act!r}; only 'silu' is known"
            )
        head_dim = module.layers[0].self_attn.head_dim
        return Transformer(
            layers=[self.transformer_layer(layer, head_dim) for layer in module.layers],
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            window=config.sliding_window,
            epsilon=config.rms_norm_eps,
            inverse_frequencies=module.rotary_emb.inv_freq.detach().to(self.device, torch.float32),
            rope_scale=float(module.rotary_emb.attention_scaling),
        )

    def convnext(self, module: Any) -> ConvNext:
        rows, bias = _kernel_rows(module.dwconv)  # [channels, taps, 1]
        widen, narrow, scale = (
            _double(module.pwconv1.weight),
            _double(module.pwconv2.weight),
            _double(module.gamma),
        )
        widen_bias = _double(module.pwconv1.bias) + widen @ _double(module.norm.bias)
        return ConvNext(
            depthwise=self.ready(rows[..., 0].T),
            depthwise_bias=self.ready(bias),
            epsilon=module.norm.eps,
            widen=self.projection(widen * _double(module.norm.weight), widen_bias),
            narrow=self.projection(narrow * scale[:, None], _double(module.pwconv2.bias) * scale),
        )

    def block(self, module: Any) -> Block:
        snake, upsample, *units = module.block
        return Block(
            self.snake(snake),
            self.transposed(upsample),
            [
                ResidualUnit(
                    self.snake(unit.act1),
                    self.causal(unit.conv1),
                    self.snake(unit.act2),
                    self.causal(unit.conv2),
                )
                for unit in units
            ],
        )

    def decoder(self, decoder: Any) -> DecoderWeights:
        transformer = decoder.pre_transformer
        rows, bias = _kernel_rows(decoder.pre_conv)
        projection = _double(transformer.input_proj.weight)
        pre = self.convolution(
            torch.einsum("oc,cti->oti", projection, rows),
            projection @ bias + _double(transformer.input_proj.bias),
        )
        upsamples = [
            (self.transposed(layer), self.convnext(convnext)) for layer, convnext in decoder.upsample
        ]
        rows, bias, stride = _transposed_rows(decoder.upsample[0][0])
        if rows.shape[1] != 1:
            raise CheckpointError(
                "the codec's first transposed convolution overlaps; its kernel must be its stride"
            )
        projection = _double(transformer.output_proj.weight)
        first = self.convolution(
            torch.einsum("oti,ic->otc", rows, projection * _double(transformer.norm.weight)),
            bias + rows[:, 0] @ _double(transformer.output_proj.bias),
            stride=stride,
        )
        upsamples[0] = (first, upsamples[0][1])
        enter, *blocks, snake, leave = decoder.decoder
        return DecoderWeights(
            codebooks=self.codebooks(decoder.quantizer),
            pre=pre,
            transformer=self.transformer(transformer),
            upsamples=upsamples,
            waveform=WaveformWeights(
                enter=self.causal(enter),
                blocks=[self.block(block) for block in blocks],
                snake=self.snake(snake),
                leave=self.causal(leave),
            ),
        )
