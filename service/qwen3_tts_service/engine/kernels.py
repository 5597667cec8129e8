"""The GPU's kernels of one frame, in Triton: the same source for CUDA and ROCm.

A frame at small batch is bound by reading the weights once, and by how many kernels stand between two reads.
So each kernel does everything between two matrix products, and a decoder layer is five or six of them:
normalise and project, attend (with head norms, rotation and cache write), add up the parts, project and add,
normalise and gate, project and add.

Every row is computed in one fixed order which depends neither on the number of rows nor on their contents:
a product adds up its inputs in the same order whatever the tile, the attention works in parts of ``PART``
positions. A request therefore gets the same bits alone and in any batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Rows of a product's tile: the smallest that matrix units take. A product costs the same for 1 and 16 rows.
ROWS = 16
#: Cached positions that one program attends to, and at a time.
PART = 128
PART_BLOCK = 64


# The batch stays a plain number: a variant for 1 row would compute another order than one for 16.
@triton.jit(do_not_specialize=["batch"])
def project(
    inputs,
    weight,
    scale,
    input_squares,
    bias,
    residual,
    output,
    output_squares,
    batch,
    inputs_stride,
    output_stride,
    eps,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    NORM_PARTS: tl.constexpr,
    SQUARES: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    ADD: tl.constexpr,
    INT8: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """output [batch, OUT] = inputs [batch, IN] @ weight [OUT, IN]^T, and what stands around it.

    NORM_PARTS: when not 0, the inputs' RMS norm, as a factor of the sum: input_squares [batch, NORM_PARTS] adds
    up to the sum of their squares, and the norm's gain is part of ``weight``. SQUARES: leave this output's sums
    of squares [batch, OUT / BLOCK_OUT] for the next. GATED: weight is [2 OUT, IN], gate over up, output =
    silu(gate) * up. ADD: output = residual + product. INT8: weight in bytes, one scale a row.
    """
    # Tiles of rows run side by side, so that the second finds the weights in the cache.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.program_id(1)
    outs = tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    row_mask = rows[:, None] < batch
    ins = tl.arange(0, BLOCK_IN)
    # Four sums at once: the matrix unit takes long for one step, and the steps of one sum wait for each other.
    first = tl.zeros([ROWS, BLOCK_OUT], dtype=tl.float32)
    second = tl.zeros([ROWS, BLOCK_OUT], dtype=tl.float32)
    third = tl.zeros([ROWS, BLOCK_OUT], dtype=tl.float32)
    fourth = tl.zeros([ROWS, BLOCK_OUT], dtype=tl.float32)
    stretch: tl.constexpr = IN // 2 if GATED else IN // 4
    input_at = inputs + rows[:, None] * inputs_stride + ins[None, :]
    weight_at = weight + outs[:, None] * IN + ins[None, :]
    for start in tl.range(0, stretch, BLOCK_IN, num_stages=STAGES):
        x = tl.load(input_at + start, mask=row_mask, other=0.0)
        y = tl.load(input_at + start + stretch, mask=row_mask, other=0.0)
        w = tl.load(weight_at + start)
        v = tl.load(weight_at + start + stretch)
        first = tl.dot(x, tl.trans(w.to(x.dtype)), first, input_precision="ieee")
        second = tl.dot(y, tl.trans(v.to(x.dtype)), second, input_precision="ieee")
        if GATED:
            w = tl.load(weight_at + start + OUT * IN)
            v = tl.load(weight_at + start + OUT * IN + stretch)
        else:
            x = tl.load(input_at + start + 2 * stretch, mask=row_mask, other=0.0)
            y = tl.load(input_at + start + 3 * stretch, mask=row_mask, other=0.0)
            w = tl.load(weight_at + start + 2 * stretch)
            v = tl.load(weight_at + start + 3 * stretch)
        third = tl.dot(x, tl.trans(w.to(x.dtype)), third, input_precision="ieee")
        fourth = tl.dot(y, tl.trans(v.to(x.dtype)), fourth, input_precision="ieee")
    total = first + second
    gated = third + fourth
    if not GATED:
        total += gated
    if INT8:
        total *= tl.load(scale + outs)[None, :]
        if GATED:
            gated *= tl.load(scale + OUT + outs)[None, :]
    if NORM_PARTS:
        parts = rows[:, None] * NORM_PARTS + tl.arange(0, NORM_PARTS)[None, :]
        squares = tl.sum(tl.load(input_squares + parts, mask=row_mask, other=0.0), 1)
        factor = tl.rsqrt(squares / IN + eps)[:, None]
        total *= factor
        if GATED:
            gated *= factor
    if GATED:
        total = total * tl.sigmoid(total) * gated
    if BIAS:
        total += tl.load(bias + outs).to(tl.float32)[None, :]
    at = rows[:, None] * output_stride + outs[None, :]
    if ADD:
        total += tl.load(residual + at, mask=row_mask, other=0.0).to(tl.float32)
    rounded = total.to(output.dtype.element_ty)
    tl.store(output + at, rounded, mask=row_mask)
    if SQUARES:
        wide = rounded.to(tl.float32)
        cell = rows * (OUT // BLOCK_OUT) + tile
        tl.store(output_squares + cell, tl.sum(wide * wide, 1), mask=rows < batch)


@triton.jit
def _store_squares(squares, row, values, PARTS: tl.constexpr):
    """The sum of squares of a row that one program made: in the first part, the others are zero."""
    wide = values.to(tl.float32)
    part = tl.arange(0, PARTS)
    tl.store(squares + row * PARTS + part, tl.where(part == 0, tl.sum(wide * wide, 0), 0.0))


@triton.jit
def measure(x, squares, WIDTH: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of squares of x [batch, WIDTH], as :func:`project` reads them; program (row)."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    _store_squares(squares, row, tl.load(x + row * WIDTH + at, mask=at < WIDTH, other=0.0), PARTS)


@triton.jit
def normalise(
    x,
    gain,
    output,
    squares,
    eps,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """RMS norm of x [batch, WIDTH], cast as upstream casts, and the output's sums of squares; program (row)."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    wide = tl.load(x + row * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    plain = (wide * factor).to(output.dtype.element_ty).to(tl.float32)
    result = (plain * tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)).to(output.dtype.element_ty)
    tl.store(output + row * WIDTH + at, result, mask=inside)
    _store_squares(squares, row, result, PARTS)


@triton.jit
def _head_norm_and_rotate(
    at, stride, norm, cos, sin, eps, LIVE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr
):
    """Heads [HEADS, DIM], zeros after the first LIVE: RMS norm of each, then the rotation of half and half."""
    dims = tl.arange(0, DIM)
    half: tl.constexpr = DIM // 2
    other = (dims + half) % DIM
    sign = tl.where(dims < half, -1.0, 1.0)
    heads = tl.arange(0, HEADS)
    live = (heads < LIVE)[:, None]
    x = tl.load(at + heads[:, None] * stride + dims[None, :], mask=live, other=0.0).to(tl.float32)
    y = tl.load(at + heads[:, None] * stride + other[None, :], mask=live, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x, 1) / DIM + eps)[:, None]
    x = x * factor * tl.load(norm + dims).to(tl.float32)[None, :]
    y = y * factor * tl.load(norm + other).to(tl.float32)[None, :] * sign[None, :]
    return x * tl.load(cos + dims)[None, :] + y * tl.load(sin + dims)[None, :]


@triton.jit
def attend(
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    keys,
    values,
    position,
    parts,
    extremes,
    output,
    slot_stride,
    head_stride,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ONLY_CACHE: tl.constexpr,
):
    """One query a row against its slot's cached positions, in parts; program (row, key head, part).

    qkv [batch, (HEADS + 2 KV_HEADS) DIM], keys and values [slots, KV_HEADS, positions, DIM], position [batch]
    (where this row's key and value go), cos and sin [positions, DIM] in fp32. Part 0 writes the new key and
    value and counts them; the others read the cache only. With one part the output [batch, HEADS DIM] is
    written at once, else parts [batch, HEADS, PARTS, DIM] and extremes [batch, HEADS, PARTS, 2] (the maximum,
    the sum) for :func:`add_parts`. The cost follows the position, not the cache's size. The query heads of a
    key head are rows of one product, filled up to ROWS.
    """
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    part = tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    width: tl.constexpr = (HEADS + 2 * KV_HEADS) * DIM
    now = tl.load(position + row)
    start_of_part = part * PART
    if start_of_part <= now:
        dims = tl.arange(0, DIM)
        own = qkv + row * width
        angle = now * DIM
        cache = row.to(tl.int64) * slot_stride + kv_head * head_stride
        # Every part makes the new key, and the first writes and counts it: a branch less than one maker.
        key = _head_norm_and_rotate(
            own + (HEADS + kv_head) * DIM, DIM, k_norm, cos + angle, sin + angle, eps, 1, 1, DIM
        ).to(keys.dtype.element_ty)
        value = tl.load(own + (HEADS + KV_HEADS + kv_head) * DIM + dims)
        is_first = part == 0
        new_at = cache + now * DIM + dims
        tl.store(keys + new_at[None, :], key, mask=(new_at >= 0)[None, :] & is_first)
        tl.store(values + new_at, value, mask=(new_at >= 0) & is_first)
        if not ONLY_CACHE:
            query = _head_norm_and_rotate(
                own + kv_head * group * DIM, DIM, q_norm, cos + angle, sin + angle, eps, group, ROWS, DIM
            )
            scale: tl.constexpr = DIM**-0.5
            high = tl.sum(query * key.to(tl.float32), 1) * scale
            high = tl.where(is_first, high, float("-inf"))
            total = tl.where(is_first, tl.full([ROWS], 1.0, tl.float32), 0.0)
            mixed = tl.zeros([ROWS, DIM], tl.float32)
            mixed += tl.where(is_first, value.to(tl.float32), 0.0)[None, :]
            query = query.to(keys.dtype.element_ty)
            last = tl.minimum(now, start_of_part + PART)
            for start in range(start_of_part, last, BLOCK):
                at = start + tl.arange(0, BLOCK)
                mask = at < last
                here = cache + at[:, None] * DIM + dims[None, :]
                k = tl.load(keys + here, mask=mask[:, None], other=0.0)
                v = tl.load(values + here, mask=mask[:, None], other=0.0)
                score = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
                score = tl.where(mask[None, :], score, float("-inf"))
                higher = tl.maximum(high, tl.max(score, 1))
                weight = tl.exp(score - higher[:, None])
                fade = tl.exp(high - higher)
                total = total * fade + tl.sum(weight, 1)
                mixed = mixed * fade[:, None]
                mixed = tl.dot(weight.to(v.dtype), v, mixed, input_precision="ieee")
                high = higher
            live = tl.arange(0, ROWS)
            alive = live < group
            heads = kv_head * group + live
            if PARTS == 1:
                at_out = output + row * HEADS * DIM + heads[:, None] * DIM + dims[None, :]
                result = (mixed / total[:, None]).to(output.dtype.element_ty)
                tl.store(at_out, result, mask=alive[:, None])
            else:
                cell = (row * HEADS + heads) * PARTS + part
                tl.store(parts + cell[:, None] * DIM + dims[None, :], mixed, mask=alive[:, None])
                tl.store(extremes + cell * 2, high, mask=alive)
                tl.store(extremes + cell * 2 + 1, total, mask=alive)


@triton.jit
def add_parts(
    parts,
    extremes,
    position,
    output,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Join the parts that :func:`attend` left: output [batch, HEADS DIM]; program (row, head)."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    count = tl.load(position + row) // PART + 1
    cell = (row * HEADS + head) * PARTS
    dims = tl.arange(0, DIM)
    high = float("-inf")
    total = 0.0
    mixed = tl.zeros([DIM], tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        mask = at < count
        part_high = tl.load(extremes + (cell + at) * 2, mask=mask, other=float("-inf"))
        part_total = tl.load(extremes + (cell + at) * 2 + 1, mask=mask, other=0.0)
        part = tl.load(parts + (cell + at)[:, None] * DIM + dims[None, :], mask=mask[:, None], other=0.0)
        higher = tl.maximum(high, tl.max(part_high, 0))
        fade = tl.exp(high - higher)
        weight = tl.exp(part_high - higher)
        total = total * fade + tl.sum(weight * part_total, 0)
        mixed = mixed * fade + tl.sum(weight[:, None] * part, 0)
        high = higher
    at_out = output + (row * HEADS + head) * DIM + dims
    tl.store(at_out, (mixed / total).to(output.dtype.element_ty))


@triton.jit
def _mix(x):
    """A 32-bit mixing function without visible structure (lowbias32); :func:`.sampling.mix` is its twin."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _ordered(x):
    """fp32 -> unsigned integers in the same order."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where((bits >> 31) != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _largest_key(keys, amounts, wanted, AT_LEAST: tl.constexpr, BITS: tl.constexpr):
    """The largest t with sum(amounts[keys >= t]) >= wanted, or with sum(amounts[keys < t]) <= wanted."""
    found = tl.zeros([], tl.uint32)
    digits = tl.arange(0, 1 << BITS).to(tl.uint32)
    for step in tl.static_range(32 // BITS):
        shift = 32 - BITS * (step + 1)
        bound = found | (digits << shift)
        if AT_LEAST:
            mass = tl.sum(tl.where(keys[:, None] >= bound[None, :], amounts[:, None], 0.0), 0)
            enough = mass >= wanted
        else:
            mass = tl.sum(tl.where(keys[:, None] < bound[None, :], amounts[:, None], 0.0), 0)
            enough = mass <= wanted
        digit = tl.max(tl.where(enough, digits.to(tl.int32), 0), 0)
        found = found | (digit.to(tl.uint32) << shift)
    return found


# One variant for all codebooks: by itself Triton would make one for 0, one for 1 and one for the rest.
@triton.jit(do_not_specialize=["codebook"])
def sample(
    logits,
    seen,
    step,
    seed,
    temperature,
    top_k,
    top_p,
    penalty,
    greedy,
    codes,
    table,
    embedding,
    squares,
    codebook,
    suppressed_from,
    eos,
    min_frames,
    VOCABULARY: tl.constexpr,
    CODEBOOKS: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    SQUARES: tl.constexpr,
    BITS: tl.constexpr,
):
    """Choose one code a row from logits [batch, VOCABULARY] in fp32, and fetch what the predictor reads next.

    The processors are transformers', in its order: repetition penalty, eos barred before ``min_frames``,
    ids from ``suppressed_from`` on barred but eos (FIRST: codebook 0 only), temperature, top k, top p. The
    k-th largest and the nucleus' edge are found by searching the value's bits: no sort. The choice is the
    largest of logit + Gumbel noise, and the noise a function of (seed, frame, codebook, token) alone.
    """
    row = tl.program_id(0)
    tokens = tl.arange(0, BLOCK)
    mask = tokens < VOCABULARY
    score = tl.load(logits + row * VOCABULARY + tokens, mask=mask, other=float("-inf"))
    frame = tl.load(step + row)
    if FIRST:
        before = tl.load(seen + row * VOCABULARY + tokens, mask=mask, other=0) != 0
        by = tl.load(penalty + row)
        score = tl.where(before, tl.where(score < 0, score * by, score / by), score)
        barred = (tokens >= suppressed_from) & (tokens != eos)
        barred = barred | ((tokens == eos) & (frame < min_frames))
        score = tl.where(barred, float("-inf"), score)
    if tl.load(greedy + row) == 0:
        score = score / tl.load(temperature + row)
        k = tl.load(top_k + row)
        if (k > 0) & (k < VOCABULARY):
            keys = _ordered(score)
            ones = tl.where(mask, 1.0, 0.0)
            edge = _largest_key(keys, ones, k.to(tl.float32), True, BITS)
            score = tl.where(keys >= edge, score, float("-inf"))
        p = tl.load(top_p + row)
        if p < 1.0:
            keys = _ordered(score)
            share = tl.exp(score - tl.max(score, 0))
            share = share / tl.sum(share, 0)
            edge = _largest_key(keys, share, 1.0 - p, False, BITS)
            best = tl.max(keys, 0)
            score = tl.where(keys >= tl.minimum(edge, best), score, float("-inf"))
        given = tl.load(seed + row)
        low = (given & 0xFFFFFFFF).to(tl.uint32)
        high = ((given >> 32) & 0xFFFFFFFF).to(tl.uint32)
        key = _mix(_mix(low) + high * 0x9E3779B9)
        key = _mix(key + frame.to(tl.uint32) * 0x9E3779B9)
        key = _mix(key ^ (codebook.to(tl.uint32) * 0x9E3779B9))
        hashed = _mix(_mix(key ^ tokens.to(tl.uint32)) + key)
        uniform = ((hashed >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
        score = score - tl.log(-tl.log(uniform))
    # Of NaN the largest is anywhere; it must at least be a token.
    code = tl.minimum(tl.argmax(score, 0), VOCABULARY - 1)
    tl.store(codes + row * CODEBOOKS + codebook, code.to(tl.int32))
    at = tl.arange(0, BLOCK_WIDTH)
    inside = at < WIDTH
    next_input = tl.load(table + code * WIDTH + at, mask=inside, other=0.0)
    tl.store(embedding + row * WIDTH + at, next_input, mask=inside)
    _store_squares(squares, row, next_input, SQUARES)


@triton.jit
def advance(
    codes,
    newest,
    tables,
    first_table,
    seen,
    trailing,
    trailing_length,
    pad,
    x,
    position,
    step,
    max_frames,
    active,
    done,
    slot_trailing,
    eos,
    last_text,
    CODEBOOKS: tl.constexpr,
    WIDTH: tl.constexpr,
    VOCABULARY: tl.constexpr,
    TABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take the frame over into the slot's state, where the row advances; program (row).

    Codes, then for rows that go on: x = (sum of the 16 embeddings) + the next text embedding, or the pad
    embedding after the last, rounded where upstream rounds, and the counters. A row is done
    with the end of speech and with its last frame. ``FrameModel._advance`` is the same in plain tensors.
    """
    row = tl.program_id(0)
    advances = (tl.load(active + row) != 0) & (tl.load(done + row) == 0)
    if advances:
        books = tl.arange(0, CODEBOOKS)
        own = newest + row * CODEBOOKS
        tl.store(codes + row * CODEBOOKS + books, tl.load(own + books))
        frame = tl.load(step + row)
        first = tl.load(own)
        ended = (first == eos) | (frame + 1 >= tl.load(max_frames + row))
        if ended:
            tl.store(done + row, tl.full([], 1, tl.uint8))
        else:
            at = tl.arange(0, BLOCK)
            inside = at < WIDTH
            total = tl.load(first_table + first * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
            for book in range(1, CODEBOOKS):
                here = ((book - 1) * TABLE + tl.load(own + book)) * WIDTH + at
                total += tl.load(tables + here, mask=inside, other=0.0).to(tl.float32)
            total = total.to(x.dtype.element_ty).to(tl.float32)
            if frame < tl.load(trailing_length + row):
                text_at = row.to(tl.int64) * slot_trailing + tl.minimum(frame, last_text) * WIDTH + at
                text = tl.load(trailing + text_at, mask=inside, other=0.0)
            else:
                text = tl.load(pad + at, mask=inside, other=0.0)
            rounded = (total + text.to(tl.float32)).to(x.dtype.element_ty)
            tl.store(x + row * WIDTH + at, rounded, mask=inside)
            tl.store(seen + row * VOCABULARY + first, tl.full([], 1, tl.uint8))
            tl.store(position + row, tl.load(position + row) + 1)
            tl.store(step + row, frame + 1)
