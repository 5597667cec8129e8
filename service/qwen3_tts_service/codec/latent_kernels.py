"""What stands between the products in front of the waveform part, on a GPU, in Triton.

These layers compute little on few rows: their time is the number of launches. So what torch does in several
operations between two products is one kernel here.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["frames", "tables", "size"])
def embed(
    codes, codebooks, out, out_step, frames, tables, size, channels,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum each frame's codebook vectors: codes [streams, tables, frames], codebooks [tables, size, channels].

    out [streams, frames, channels], ``out_step`` elements from stream to stream.
    """
    stream = tl.program_id(0) // frames
    frame = tl.program_id(0) - stream * frames
    at = tl.arange(0, BLOCK)
    inside = at < channels
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for table in range(0, tables):
        code = tl.load(codes + (stream * tables + table) * frames + frame)
        vector = tl.load(codebooks + (table * size + code) * channels + at, mask=inside, other=0.0)
        total += vector.to(tl.float32)
    tl.store(out + stream * out_step + frame * channels + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rms_norm(x, out, width, epsilon, BLOCK: tl.constexpr):
    """Each float32 row over its root mean square, in the dtype of ``out``."""
    at = tl.arange(0, BLOCK)
    inside = at < width
    row = tl.load(x + tl.program_id(0) * width + at, mask=inside, other=0.0)
    result = row * tl.rsqrt(tl.sum(row * row) / width + epsilon)
    tl.store(out + tl.program_id(0) * width + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate(rows, out, width, BLOCK: tl.constexpr):
    """SiLU of the first ``width`` of each row times the rest."""
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    row = rows + tl.program_id(0) * 2 * width
    first = tl.load(row + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(row + width + at, mask=inside, other=0.0).to(tl.float32)
    result = first * tl.sigmoid(first) * second
    tl.store(out + tl.program_id(0) * width + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["frames", "taps"])
def mix_rows(
    rows, weight, bias, out, frames, taps, channels, epsilon,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A depthwise convolution, and each of its rows without mean and with variance 1.

    rows [streams, taps - 1 + frames, channels], weight [taps, channels], out [streams, frames, channels].
    """
    place = tl.program_id(0)
    # Each stream has as many rows more than it makes.
    first = place + place // frames * (taps - 1)
    at = tl.arange(0, BLOCK)
    inside = at < channels
    total = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    for tap in range(0, taps):
        row = tl.load(rows + (first + tap) * channels + at, mask=inside, other=0.0).to(tl.float32)
        total += row * tl.load(weight + tap * channels + at, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, total - tl.sum(total) / channels, 0.0)
    result = centred * tl.rsqrt(tl.sum(centred * centred) / channels + epsilon)
    tl.store(out + place * channels + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotated(rows, at, position, live, frequencies, rope_scale, HEAD_DIM: tl.constexpr):
    """A head of each row, turned to its position, in float32; its numbers begin at ``rows``."""
    half: tl.constexpr = HEAD_DIM // 2
    angle = position.to(tl.float32)[:, None] * tl.load(frequencies + at % half)[None, :]
    plain = tl.load(rows[:, None] + at[None, :], mask=live[:, None], other=0.0).to(tl.float32)
    other = tl.load(rows[:, None] + (at + half)[None, :] % HEAD_DIM, mask=live[:, None], other=0.0)
    # The lower half turns against the upper one.
    sign = tl.where(at < half, -1.0, 1.0)[None, :]
    return (plain * tl.cos(angle) + other.to(tl.float32) * sign * tl.sin(angle)) * rope_scale


@triton.jit(do_not_specialize=["frames", "kept"])
def attend(
    qkv, keys, values, position, frequencies, out, frames, kept, window_step, rope_scale, scale,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    FRAMES: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of each stream's new frames over its window and themselves; the window moves on in place.

    qkv [streams, frames, (GROUP + 2) * KV_HEADS * HEAD_DIM] of ``frames`` <= FRAMES new frames, not rotated;
    keys and values [streams, kept, KV_HEADS * HEAD_DIM], ``window_step`` elements from stream to stream, keys
    rotated; position [streams]: the absolute index of the first new frame; out [streams, frames,
    GROUP * KV_HEADS * HEAD_DIM]. One program a stream and head of keys, which nobody else reads or writes.
    """
    stream = tl.program_id(0) // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    width: tl.constexpr = (GROUP + 2) * KV_HEADS * HEAD_DIM
    step: tl.constexpr = KV_HEADS * HEAD_DIM
    at = tl.arange(0, HEAD_DIM)
    start = tl.load(position + stream)

    new = tl.arange(0, FRAMES)
    live = new < frames
    rows = qkv + (stream * frames + new) * width + GROUP * step + head * HEAD_DIM
    new_keys = _rotated(rows, at, start + new, live, frequencies, rope_scale, HEAD_DIM)
    new_keys = new_keys.to(keys.dtype.element_ty)
    new_values = tl.load((rows + step)[:, None] + at[None, :], mask=live[:, None], other=0.0)

    # The query heads that share these keys lie below each other.
    row = tl.arange(0, GROUP * FRAMES)
    frame = row % FRAMES
    asks = frame < frames
    query_head = (head * GROUP + row // FRAMES) * HEAD_DIM
    rows = qkv + (stream * frames + frame) * width + query_head
    query = _rotated(rows, at, start + frame, asks, frequencies, rope_scale, HEAD_DIM) * scale
    query = query.to(keys.dtype.element_ty)

    # Each frame sees itself; rows past the last see frame 0 at least, and are not stored.
    sees_new = (new[None, :] <= frame[:, None]) & live[None, :]
    new_scores = tl.dot(query, tl.trans(new_keys), input_precision=PRECISION)
    new_scores = tl.where(sees_new, new_scores, float("-inf"))
    most = tl.max(new_scores, 1)
    new_parts = tl.exp(new_scores - most[:, None])
    whole = tl.sum(new_parts, 1)
    mixed = tl.dot(new_parts.to(values.dtype.element_ty), new_values, input_precision=PRECISION)

    window = stream * window_step + head * HEAD_DIM
    for first in range(0, kept, BLOCK):
        old = first + tl.arange(0, BLOCK)
        known = (old < kept)[:, None]
        here = window + (old * step)[:, None] + at[None, :]
        block_keys = tl.load(keys + here, mask=known, other=0.0)
        block_values = tl.load(values + here, mask=known, other=0.0)
        scores = tl.dot(query, tl.trans(block_keys), input_precision=PRECISION)
        sees = (old[None, :] < kept) & (old[None, :] >= frame[:, None]) & (old[None, :] >= kept - start)
        scores = tl.where(sees, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        parts = tl.exp(scores - higher[:, None])
        shrink = tl.exp(most - higher)
        whole = whole * shrink + tl.sum(parts, 1)
        mixed = tl.dot(
            parts.to(values.dtype.element_ty),
            block_values,
            mixed * shrink[:, None],
            input_precision=PRECISION,
        )
        most = higher
        # Rows move to where rows were that all threads have read, and that no later block reads.
        tl.debug_barrier()
        stays = known & (old >= frames)[:, None]
        tl.store(keys + here - frames * step, block_keys, mask=stays)
        tl.store(values + here - frames * step, block_values, mask=stays)

    added = kept - frames + new
    there = window + (added * step)[:, None] + at[None, :]
    tl.store(keys + there, new_keys, mask=(live & (added >= 0))[:, None])
    tl.store(values + there, new_values, mask=(live & (added >= 0))[:, None])

    mixed = (mixed / whole[:, None]).to(out.dtype.element_ty)
    target = out + (stream * frames + frame) * GROUP * step + query_head
    tl.store(target[:, None] + at[None, :], mixed, mask=asks[:, None])
