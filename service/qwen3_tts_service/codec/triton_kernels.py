"""Convolutions on a GPU, in Triton: the same source for CUDA and ROCm.

The waveform part is bound by its matrix products in float32 and by moving its activations in bfloat16. So a
kernel reads the rows of a convolution where they lie, whatever its taps (laying them side by side first would
write seven times as much as it reads), and everything up to the next convolution is done before its result
leaves the chip: bias, residual, SnakeBeta.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _snake(x, frequency, depth):
    """SnakeBeta. The library's sine would take more registers than are left behind a product.

    Its square has the period pi, so the argument is taken to [-pi/2, pi/2], with pi in two parts. The polynomial
    meets the square on Chebyshev's points; absolute error 2.3e-7 with float32's rounding.
    """
    y = x * frequency
    turns = tl.floor(y * 0.318309886 + 0.5)
    r = (y - turns * 3.140625) - turns * 9.6765358979e-4
    q = r * r
    p = 1.3935260e-4 - 3.6316180e-6 * q
    p = p * q - 3.1724053e-3
    p = p * q + 4.4443183e-2
    p = p * q - 3.3333307e-1
    p = p * q + 1.0
    return x + depth * (p * q)


# Counts of rows differ from call to call: none of their values makes a kernel of its own. The steps do: known to
# be multiples of 16, as those of the published geometry are, they let rows be loaded 16 bytes at a time.
@triton.jit(do_not_specialize=["streams", "rows", "taps", "dilation"])
def convolve(
    source,
    weight,
    bias,
    frequency,
    depth,
    residual,
    out,
    activated,
    streams,
    rows,
    source_step,
    out_step,
    activated_step,
    taps,
    dilation,
    channels,
    width,
    RESIDUAL: tl.constexpr,
    OUT: tl.constexpr,
    SNAKE: tl.constexpr,
    ACTIVATED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A causal convolution over ``rows`` rows of each stream, and what stands behind it.

    source [streams, history + rows, channels] with ``source_step`` elements from stream to stream; weight
    [width, taps * channels]; row ``r`` meets the source's rows ``r + tap * dilation``. RESIDUAL adds float32
    [streams, rows, width], OUT stores the sum as float32 (both ``out_step`` apart), ACTIVATED stores it, through
    SnakeBeta where SNAKE is set, in its own dtype. Programs take tiles by turns: there may be fewer of them.
    """
    tiles_out = tl.cdiv(width, BLOCK_OUT)
    total = streams * rows
    tiles = tl.cdiv(total, BLOCK_ROWS) * tiles_out
    blocks_in = tl.cdiv(channels, BLOCK_IN)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = (tile // tiles_out) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        outs = (tile % tiles_out) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        live = row < total
        wanted = outs < width
        stream = row // rows
        place = row - stream * rows
        ins = tl.arange(0, BLOCK_IN)
        source_at = source + (stream * source_step + place * channels)[:, None] + ins[None, :]
        weight_at = weight + (outs * (taps * channels))[None, :] + ins[:, None]
        total_sum = tl.zeros([BLOCK_ROWS, BLOCK_OUT], dtype=tl.float32)
        for step in tl.range(0, taps * blocks_in, num_stages=STAGES):
            tap = step // blocks_in
            first = (step - tap * blocks_in) * BLOCK_IN
            inside = ins < channels - first
            x = tl.load(
                source_at + (tap * dilation * channels + first),
                mask=live[:, None] & inside[None, :],
                other=0.0,
            )
            w = tl.load(
                weight_at + (tap * channels + first), mask=inside[:, None] & wanted[None, :], other=0.0
            )
            total_sum = tl.dot(x, w, total_sum, input_precision=PRECISION)
        mask = live[:, None] & wanted[None, :]
        total_sum += tl.load(bias + outs, mask=wanted, other=0.0)[None, :]
        at = (stream * out_step + place * width)[:, None] + outs[None, :]
        if RESIDUAL:
            total_sum += tl.load(residual + at, mask=mask, other=0.0)
        if OUT:
            tl.store(out + at, total_sum, mask=mask)
        if ACTIVATED:
            if SNAKE:
                waves = tl.load(frequency + outs, mask=wanted, other=0.0)[None, :]
                total_sum = _snake(total_sum, waves, tl.load(depth + outs, mask=wanted, other=0.0)[None, :])
            here = (stream * activated_step + place * width)[:, None] + outs[None, :]
            tl.store(activated + here, total_sum.to(activated.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["streams", "rows", "taps", "dilation"])
def to_one_channel(
    source, weight, bias, sound, streams, rows, source_step, taps, dilation, channels,
    BLOCK_ROWS: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """The last convolution, as :func:`convolve`: to sound [streams, rows] float32, clamped to [-1, 1]."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    live = row < streams * rows
    stream = row // rows
    place = row - stream * rows
    ins = tl.arange(0, BLOCK_IN)
    source_at = source + (stream * source_step + place * channels)[:, None] + ins[None, :]
    sums = tl.zeros([BLOCK_ROWS, BLOCK_IN], dtype=tl.float32)
    for tap in range(0, taps):
        for first in range(0, channels, BLOCK_IN):
            inside = ins < channels - first
            x = tl.load(
                source_at + (tap * dilation * channels + first),
                mask=live[:, None] & inside[None, :],
                other=0.0,
            )
            w = tl.load(weight + tap * channels + first + ins, mask=inside, other=0.0)
            sums += x.to(tl.float32) * w.to(tl.float32)[None, :]
    result = tl.sum(sums, 1) + tl.load(bias)
    tl.store(sound + row, tl.minimum(tl.maximum(result, -1.0), 1.0), mask=live)
