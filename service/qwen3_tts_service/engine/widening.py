"""Float32 products with weights that lie in memory as bfloat16, on a CPU.

A frame reads every weight, some 15 times: its time on a CPU is the memory's. Checkpoints are bfloat16, and a
processor without products of bfloat16 computes them as float32, which would be twice the bytes. Here they stay as
they are and are widened in registers: the same numbers, the same float32 arithmetic, half the reading.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..native import NotCompiled, load_library

_SOURCE = Path(__file__).with_name("widening.cpp")
#: Largest error of the check, over the size of the product: float32 in another order.
_ROUNDING = 1e-5


class WidenedMatrix(NamedTuple):
    """Weights of bfloat16, packed in the order in which they are read."""

    values: Tensor  # [out / 4, in / (2 lanes), 4, lanes, 2] bfloat16, the last outputs filled up with zeros
    out: int


class Widening:
    """The built kernel. Raises NotCompiled where it cannot be built, or computes something else."""

    def __init__(self, directory: Path) -> None:
        self._library = load_library(_SOURCE, directory)
        self._lanes = int(self._library.widening_lanes())
        self._outs = int(self._library.widening_outs())
        # The operator below belongs to the process.
        global _product
        _product = self._library.widening_product
        self._check()

    def pack(self, weight: Tensor) -> WidenedMatrix | None:
        """``weight`` [out, in]; None where it is not float32 whose numbers all are bfloat16, in whole lanes."""
        out, size = weight.shape
        if weight.device.type != "cpu" or weight.dtype is not torch.float32 or size % (2 * self._lanes):
            return None
        halves = weight.to(torch.bfloat16)
        if not torch.equal(halves.to(torch.float32), weight):
            return None
        padded = torch.nn.functional.pad(halves, (0, 0, 0, -out % self._outs))
        by_block = padded.view(-1, self._outs, size // (2 * self._lanes), 2, self._lanes)
        return WidenedMatrix(by_block.permute(0, 2, 1, 4, 3).contiguous(), out)

    def _check(self) -> None:
        """Rows of every remainder, outputs too, against float64."""
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(4 * self._outs + 3, 6 * self._lanes, generator=draw).bfloat16().float()
        matrix = self.pack(weight)
        assert matrix is not None
        for rows in (1, 2, 3, 37):
            x = torch.randn(rows, weight.shape[1], generator=draw)
            exact = x.double() @ weight.double().T
            error = float((product(x, matrix).double() - exact).abs().max() / exact.std())
            if not error <= _ROUNDING:
                raise NotCompiled(
                    f"the built product is off by {error:.1e} where {_ROUNDING:.0e} is rounding"
                )


def product(x: Tensor, matrix: WidenedMatrix) -> Tensor:
    """x [..., in] float32 times the transpose of the matrix: [..., out], each row as it would be alone."""
    result: Tensor = torch.ops.qwen3_tts.widened_linear(x, matrix.values, matrix.out)
    return result


def _widened_linear(x: Tensor, values: Tensor, out: int) -> Tensor:
    if x.dtype is not torch.float32 or x.shape[-1] * values.shape[2] * values.shape[0] != values.numel():
        raise ValueError(f"rows {tuple(x.shape)} of {x.dtype} for a packed matrix {tuple(values.shape)}")
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], out))
    _product(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_int64(x.numel() // x.shape[-1]),
        ctypes.c_int64(x.shape[-1]),
        ctypes.c_void_p(values.data_ptr()),
        ctypes.c_int64(out),
        ctypes.c_void_p(y.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )
    return y


def _shape_of_widened_linear(x: Tensor, values: Tensor, out: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out))


def _product(*_arguments: object) -> None:
    raise RuntimeError("matrices are packed by a Widening, which builds this")


# The bare registration, as of ``linear``'s own operator: there are 400 a frame.
_operators = torch.library.Library("qwen3_tts", "FRAGMENT")  # type: ignore[no-untyped-call]
_operators.define("widened_linear(Tensor x, Tensor values, int out) -> Tensor")  # type: ignore[no-untyped-call]
_operators.impl("widened_linear", _widened_linear, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("qwen3_tts::widened_linear", _shape_of_widened_linear, lib=_operators)
