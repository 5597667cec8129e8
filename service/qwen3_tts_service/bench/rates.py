"""What the hardware under the measurement gives: bytes a second read, operations a second in matrix products.

Measured in the same run as what is compared with it: a clock that throttles, or a neighbour on the machine,
slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

#: Bytes of the buffer that is read: larger than any cache of the hosts this runs on.
_READ_BYTES = {"cuda": 1 << 30, "cpu": 256 << 20}
#: Rows and columns of the square matrices.
_MATRIX_SIZE = {"cuda": 8192, "cpu": 2048}
#: Where the search for their size begins, and what one product may take at most (seconds).
_FIRST_SIZE, _LONG_S = 256, 1.0
_REPEATS = {"cuda": 20, "cpu": 5}


@dataclass(frozen=True)
class Rates:
    """The best of several tries: a floor is what the hardware can do, not what it did on average."""

    device: str
    dtype: str
    bytes_a_second: float
    #: The way of reading that was fastest.
    read_by: str
    operations_a_second: float
    threads: int


def synchronise(device: torch.device) -> None:
    """Block until the device has done what was enqueued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    device: torch.device,
    dtype: torch.dtype,
    *,
    read_bytes: int | None = None,
    matrix_size: int | None = None,
) -> Rates:
    """Probe ``device`` for about a second. Sizes default to what suits the kind of device."""
    with torch.inference_mode():
        ways = _read_rates(device, read_bytes or _READ_BYTES[device.type])
        way = max(ways, key=lambda name: ways[name])
        operations = _matrix_rate(device, dtype, matrix_size or _MATRIX_SIZE[device.type])
    return Rates(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        bytes_a_second=ways[way],
        read_by=way,
        operations_a_second=operations,
        threads=torch.get_num_threads(),
    )


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of square matrix products alone."""
    with torch.inference_mode():
        return _matrix_rate(device, dtype, _MATRIX_SIZE[device.type])


def _read_rates(device: torch.device, size: int) -> dict[str, float]:
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    vector = torch.ones(1024, device=device)
    matrix = source[: len(source) // 1024 * 1024].view(-1, 1024)
    return {
        "sum": size / _best(lambda: source.sum(), device),
        "matrix times vector": matrix.numel() * 4 / _best(lambda: torch.mv(matrix, vector), device),
        # A copy moves every byte twice.
        "copy": 2 * size / _best(lambda: target.copy_(source), device),
    }


def _matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Of products of ``size``, or of smaller ones where such a product takes seconds.

    A CPU without instructions for bf16 does 0.4 billion of its operations a second: one product of 2048 would
    take 45 s.
    """
    side = min(size, _FIRST_SIZE)
    while True:
        # Random numbers: products of zeros draw less power, and GPUs then clock higher.
        left = torch.randn(side, side, device=device).to(dtype)
        right = torch.randn(side, side, device=device).to(dtype)
        out = torch.empty_like(left)
        fastest = _best(partial(torch.mm, left, right, out=out), device)
        if side == size or 8 * fastest > _LONG_S:
            return float(2 * side**3 / fastest)
        side = min(size, 2 * side)


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several runs."""
    work()
    synchronise(device)
    fastest = float("inf")
    for _ in range(_REPEATS[device.type]):
        started = time.perf_counter()
        work()
        synchronise(device)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
