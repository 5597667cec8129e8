"""Convolutions of the codec on a GPU, through the kernels of :mod:`.triton_kernels`."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor

from ..native import NotCompiled
from . import tiles, triton_kernels
from .device_kernels import PackedProduct, Target
from .gpu_latents import GPULatents
from .latents import Latents
from .weights import Convolution, DecoderWeights, Snake


class PackedConvolution(PackedProduct):
    """A convolution as the kernels read it, with the SnakeBeta that its result goes through."""

    def __init__(self, convolution: Convolution, kernels: GPUKernels, then: Snake | None = None) -> None:
        super().__init__(convolution)
        self.dilation = convolution.dilation
        self.weight = convolution.weight.contiguous()
        bias = self.weight.new_zeros(self.width) if convolution.bias is None else convolution.bias
        self.bias = bias.float().contiguous()
        self.frequency = None if then is None else then.frequency.float().repeat(self.stride)
        self.depth = None if then is None else then.depth.float().repeat(self.stride)
        self._kernels = kernels

    def __call__(self, rows: Tensor) -> Tensor:
        out = rows.new_empty(rows.shape[0], rows.shape[1] - self.history, self.width)
        self._kernels.convolve(self, rows.contiguous(), Target(activated=out))
        return out


class GPUKernels:
    """The kernels for rows of one dtype, float32 or bfloat16, on ``device``.

    Products of float32 are three of the matrix units' on CUDA, which leaves an error like float32's own; ROCm's
    Triton has no such product and multiplies in float32. In bfloat16 the rows that meet weights are bfloat16;
    sums, residuals and SnakeBeta are float32. Raises NotCompiled where they cannot be built or cannot do ``dtype``.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise NotCompiled(f"no kernels for {dtype}")
        self.dtype = dtype
        self.precision = "ieee" if torch.version.hip or dtype != torch.float32 else "tf32x3"
        self._multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self._tiles = (tiles.ROCM if torch.version.hip else tiles.CUDA)[dtype]
        self._check_snake(device)

    def latents(self, weights: DecoderWeights) -> Latents:
        return GPULatents(weights, self, self.precision)

    def pack(self, convolution: Convolution, then: Snake | None = None) -> PackedConvolution:
        self._check(convolution)
        return PackedConvolution(convolution, self, then)

    def pack_last(self, convolution: Convolution) -> PackedConvolution:
        return PackedConvolution(convolution, self)

    def _check(self, convolution: Convolution) -> None:
        """A few rows against float64: kernels that compute something else are not used."""
        draw = torch.Generator().manual_seed(0)
        rows = torch.randn(2, convolution.history + 37, convolution.channels, generator=draw)
        rows = rows.to(convolution.weight.device, self.dtype)
        bias = None if convolution.bias is None else convolution.bias.double()
        exact = replace(convolution, weight=convolution.weight.double(), bias=bias)(rows.double())
        self._compare(PackedConvolution(convolution, self)(rows), exact)

    def _check_snake(self, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(0)
        rows, weight = (
            torch.randn(*shape, generator=draw).to(device, self.dtype) for shape in ((2, 37, 32), (48, 32))
        )
        snake = Snake(*(torch.rand(48, generator=draw).to(device, self.dtype) for _ in range(2)))
        exact = rows.double() @ weight.double().T
        exact += snake.depth.double() * torch.sin(exact * snake.frequency.double()).square()
        self._compare(PackedConvolution(Convolution(weight, None), self, snake)(rows), exact)

    def _compare(self, got: Tensor, exact: Tensor) -> None:
        error = float((got.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())
        limit = 1e-5 if self.dtype == torch.float32 else 0.01
        if not error <= limit:
            raise NotCompiled(f"the compiled kernels are off by {error:.1e} where {limit:.0e} is rounding")

    def convolve(self, packed: PackedConvolution, source: Tensor, target: Target) -> None:
        streams, length, _ = source.shape
        rows = length - packed.history
        tile = tiles.choose(self._tiles, streams * rows, packed.width, self._multiprocessors)
        count = triton.cdiv(streams * rows, tile.rows) * triton.cdiv(packed.width, tile.outs)
        sums = target.residual if target.out is None else target.out
        # What is not there is not read: any tensor does in its place.
        anything = packed.bias
        # No more than run at once: they take tiles by turns, and leave room for the frames' kernels beside them.
        triton_kernels.convolve[(min(count, self._multiprocessors * 8 // tile.warps),)](
            source,
            packed.weight,
            packed.bias,
            anything if packed.frequency is None else packed.frequency,
            anything if packed.depth is None else packed.depth,
            anything if target.residual is None else target.residual,
            anything if target.out is None else target.out,
            anything if target.activated is None else target.activated,
            streams,
            rows,
            source.stride(0),
            0 if sums is None else sums.stride(0),
            0 if target.activated is None else target.activated.stride(0),
            packed.taps,
            packed.dilation,
            packed.channels,
            packed.width,
            RESIDUAL=target.residual is not None,
            OUT=target.out is not None,
            SNAKE=packed.frequency is not None,
            ACTIVATED=target.activated is not None,
            PRECISION=self.precision,
            BLOCK_ROWS=tile.rows,
            BLOCK_OUT=tile.outs,
            BLOCK_IN=tile.ins,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )

    def unit(
        self,
        dilated: PackedConvolution,
        project: PackedConvolution,
        source: Tensor,
        target: Target,
        between: Tensor,
    ) -> None:
        self.convolve(dilated, source, Target(activated=between))
        self.convolve(project, between, target)

    def leave(self, packed: PackedConvolution, source: Tensor, sound: Tensor) -> None:
        streams, rows = sound.shape
        triton_kernels.to_one_channel[(triton.cdiv(streams * rows, _LEAVE_ROWS),)](
            source,
            packed.weight,
            packed.bias,
            sound,
            streams,
            rows,
            source.stride(0),
            packed.taps,
            packed.dilation,
            packed.channels,
            BLOCK_ROWS=_LEAVE_ROWS,
            BLOCK_IN=min(128, triton.next_power_of_2(packed.channels)),
        )


#: Samples that one program of the last convolution makes.
_LEAVE_ROWS = 64
