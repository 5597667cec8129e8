"""Weight matrices in the form that the device reads fastest, and the product with them.

One step of speech reads every weight once and multiplies it with a handful of rows: the time is the memory's.
Plain matrices are [out, in]. On a CPU they are reordered once, for our own product (:mod:`.widening`) where it was
built and fits, else for oneDNN; both read them at nearly the memory's full rate. With 8-bit weights there is half as
much to read.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .widening import WidenedMatrix, Widening, product

#: ``bf16`` keeps the checkpoint's weights (in the data type they are loaded in), ``int8`` rounds them.
Weights = Literal["bf16", "int8"]


class Int8Matrix(NamedTuple):
    """Weights rounded to 8 bits, symmetric, one scale for each output channel."""

    values: Tensor  # [out, in] int8, -127 to 127
    scales: Tensor  # [out] in the data type of the activations


class PackedMatrix(NamedTuple):
    """Weights in oneDNN's own order. torch.compile takes no tensors of that kind: a number stands for them."""

    token: Tensor  # [] int64: where in _packed
    out: int


#: A Tensor is plain [out, in].
Matrix = Tensor | Int8Matrix | PackedMatrix | WidenedMatrix

#: The CPU's product with bytes is made for few rows; a prompt is faster with the bytes widened first.
_FEW_ROWS = 16


def linear(x: Tensor, matrix: Matrix) -> Tensor:
    """x [..., in] times the transpose of the matrix: [..., out]."""
    if isinstance(matrix, Tensor):
        return functional.linear(x, matrix)
    if isinstance(matrix, Int8Matrix):
        return _linear_int8(x, matrix)
    if isinstance(matrix, WidenedMatrix):
        return product(x, matrix)
    result: Tensor = torch.ops.qwen3_tts.packed_linear(x, matrix.token, matrix.out)
    return result


def laid_out(weight: Tensor, weights: Weights, widening: Widening | None = None) -> Matrix:
    """A plain ``weight`` [out, in] in the form for its device; the plain one is not needed afterwards.

    ``widening`` takes it where that is there and the weight fits.
    """
    if weights == "int8":
        return rounded(weight)
    widened = None if widening is None else widening.pack(weight)
    if widened is not None:
        return widened
    return _pack(weight) if _can_pack(weight) else weight


def rounded(weight: Tensor) -> Int8Matrix:
    """Round ``weight`` [out, in] to 8 bits: half a step of 1/127 of each row's largest weight at most."""
    # The scale in its final type first, so that the rounding of the scale itself costs nothing.
    scales = (weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127.0).to(weight.dtype)
    values = (weight.float() / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Int8Matrix(values, scales)


def _linear_int8(x: Tensor, matrix: Int8Matrix) -> Tensor:
    values, scales = matrix
    rows = x.numel() // x.shape[-1]
    if x.device.type == "cpu" and rows <= _FEW_ROWS:
        result = torch._weight_int8pack_mm(x.reshape(rows, -1), values, scales)
        return result.view(*x.shape[:-1], -1)
    return functional.linear(x, values.to(x.dtype)) * scales


#: Packed weights by number; an entry lives as long as its token.
_packed: dict[int, Tensor] = {}
_numbers = itertools.count()


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    # Older processors lack the instructions for bf16.
    return weight.dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(weight: Tensor) -> PackedMatrix:
    number = next(_numbers)
    # What torch.compile's own freezing of weights calls.
    _packed[number] = torch.ops.mkldnn._reorder_linear_weight(weight)
    token = torch.tensor(number)
    weakref.finalize(token, _packed.pop, number)
    return PackedMatrix(token, weight.shape[0])


def _packed_linear(x: Tensor, token: Tensor, out: int) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, _packed[int(token)], None, "none", [], "")
    return result


def _shape_of_packed_linear(x: Tensor, token: Tensor, out: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))


# The bare registration: it costs 2 microseconds a call, a custom_op's wrapper 8, and there are 400 a frame.
_library = torch.library.Library("qwen3_tts", "DEF")  # type: ignore[no-untyped-call]
_library.define("packed_linear(Tensor x, Tensor token, int out) -> Tensor")  # type: ignore[no-untyped-call]
_library.impl("packed_linear", _packed_linear, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("qwen3_tts::packed_linear", _shape_of_packed_linear, lib=_library)
