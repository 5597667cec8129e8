"""Convolutions on the CPU through kernels that are compiled on the host, for its own processor.

``kernels.cpp`` is built once per host (:mod:`..native`).
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..native import NotCompiled, load_library
from .device_kernels import PackedProduct, Target
from .latents import Latents, PlainLatents
from .weights import Convolution, DecoderWeights, Snake, replace_products

_SOURCE = Path(__file__).with_name("kernels.cpp")


class _Convolution(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_int64),
        ("taps", ctypes.c_int64),
        ("dilation", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("frequency", ctypes.c_void_p),
        ("depth", ctypes.c_void_p),
    )


class _Target(ctypes.Structure):
    _fields_ = (
        ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_step", ctypes.c_int64),
        ("activated", ctypes.c_void_p),
        ("activated_step", ctypes.c_int64),
    )


def _target(target: Target) -> Any:
    """By reference, as the library takes it; None is a null pointer."""

    def address(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    def step(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor.stride(0)

    sums = target.residual if target.out is None else target.out
    return ctypes.byref(
        _Target(
            address(target.residual),
            address(target.out),
            step(sums),
            address(target.activated),
            step(target.activated),
        )
    )


class PackedConvolution(PackedProduct):
    """A convolution as the kernels read it, with the SnakeBeta that its result goes through."""

    def __init__(
        self, convolution: Convolution, kernels: Kernels, then: Snake | None = None, *, packed: bool = True
    ) -> None:
        super().__init__(convolution)
        self._kernels = kernels
        panel = kernels.panel
        depth = convolution.weight.shape[1]
        padded = -(-self.width // panel) * panel
        self._kept: list[Tensor] = []
        if packed:
            rows = convolution.weight.new_zeros(padded, depth)
            rows[: self.width] = convolution.weight
            # One vector lane takes 32 bits of a row: one float, or two neighbouring bfloat16.
            together = 4 // rows.element_size()
            weight = (
                rows.view(padded // panel, panel, depth // together, together)
                .permute(0, 2, 1, 3)
                .contiguous()
            )
        else:
            weight = convolution.weight.float().contiguous()
        self._kept.append(weight)
        snake: tuple[int | None, int | None] = (None, None)
        if then is not None:
            repeats = convolution.stride
            snake = (
                self._pad(then.frequency.repeat(repeats), padded),
                self._pad(then.depth.repeat(repeats), padded),
            )
        self.structure = _Convolution(
            convolution.channels,
            convolution.taps,
            convolution.dilation,
            self.width,
            weight.data_ptr(),
            self._pad(convolution.bias, padded),
            *snake,
        )

    def _pad(self, values: Tensor | None, length: int) -> int:
        padded = torch.zeros(length)
        if values is not None:
            padded[: values.shape[0]] = values
        self._kept.append(padded)
        return padded.data_ptr()

    def __call__(self, rows: Tensor) -> Tensor:
        fresh = rows.shape[1] - self.history
        out = torch.empty(rows.shape[0], fresh, self.width, dtype=rows.dtype)
        source, activated = rows.contiguous(), out
        if self.taps == 1:  # one long stream: rows of different streams are neighbours
            source, activated = source.flatten(0, 1)[None], out.flatten(0, 1)[None]
        self._kernels.convolve(self, source, Target(activated=activated))
        return out


class Kernels:
    """The built library for rows of one dtype, float32 or bfloat16.

    In bfloat16 the rows that meet weights are bfloat16; sums, residuals and SnakeBeta are float32. Kernels use
    as many cores as torch has threads. Raises NotCompiled where they cannot be built, or cannot do ``dtype``.
    """

    def __init__(self, dtype: torch.dtype, directory: Path) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise NotCompiled(f"no kernels for {dtype}")
        self.dtype = dtype
        self._library = load_library(_SOURCE, directory)
        self._bfloat = ctypes.c_int(dtype == torch.bfloat16)
        if dtype == torch.bfloat16 and not self._library.codec_has_bfloat():
            raise NotCompiled("this processor has no bfloat16 dot product (AVX512_BF16)")
        self.panel = int(self._library.codec_panel())
        self._check()

    def _check(self) -> None:
        """A small convolution against float64: kernels that compute something else are not used.

        Sizes leave a rest everywhere: rows beside full tiles, channels beside full vectors and panels.
        """
        draw = torch.Generator().manual_seed(0)
        rows = torch.randn(2, 31, 200, generator=draw).to(self.dtype)
        weight = (torch.randn(59, 3 * 200, generator=draw) / 25).to(self.dtype)
        bias = torch.randn(59, generator=draw).to(self.dtype)
        convolution = Convolution(weight, bias, taps=3, dilation=4)
        exact = Convolution(weight.double(), bias.double(), taps=3, dilation=4)(rows.double())
        error = float((PackedConvolution(convolution, self)(rows) - exact).abs().max())
        limit = 1e-5 if self.dtype == torch.float32 else 0.03
        if not error <= limit:
            raise NotCompiled(f"the built kernels are off by {error:.1e} where {limit:.0e} is rounding")

    def latents(self, weights: DecoderWeights) -> Latents:
        return PlainLatents(replace_products(weights, self.pack))

    def pack(self, convolution: Convolution, then: Snake | None = None) -> PackedConvolution:
        return PackedConvolution(convolution, self, then)

    def pack_last(self, convolution: Convolution) -> PackedConvolution:
        return PackedConvolution(convolution, self, packed=False)

    def convolve(self, packed: PackedConvolution, source: Tensor, target: Target) -> None:
        self._library.codec_convolve(
            self._bfloat,
            ctypes.byref(packed.structure),
            *_rows(source, packed),
            _target(target),
            _threads(),
        )

    def unit(
        self,
        dilated: PackedConvolution,
        project: PackedConvolution,
        source: Tensor,
        target: Target,
        between: Tensor,
    ) -> None:
        self._library.codec_unit(
            self._bfloat,
            ctypes.byref(dilated.structure),
            ctypes.byref(project.structure),
            *_rows(source, dilated),
            _target(target),
            ctypes.c_void_p(between.data_ptr()),
            _threads(),
        )

    def leave(self, packed: PackedConvolution, source: Tensor, sound: Tensor) -> None:
        self._library.codec_leave(
            self._bfloat,
            ctypes.byref(packed.structure),
            *_rows(source, packed),
            ctypes.c_void_p(sound.data_ptr()),
            _threads(),
        )


def _rows(
    source: Tensor, packed: PackedConvolution
) -> tuple[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]:
    """Where rows lie: address, elements from stream to stream, streams, rows that are computed of each."""
    streams, rows, _ = source.shape
    return (
        ctypes.c_void_p(source.data_ptr()),
        ctypes.c_int64(source.stride(0)),
        ctypes.c_int64(streams),
        ctypes.c_int64(rows - packed.history),
    )


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())
