"""From logits to codes: the filters of transformers' ``generate`` and a draw whose noise knows no slot.

Everything is a tensor with one row per slot, so that requests with different settings share a batch. The
noise of a draw is a pure function of (seed, frame, codebook, token): an integer hash, bit for bit the same
on a CPU and a GPU, in whichever slot and beside whatever neighbours a request is spoken.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
#: Frames that any speech has: its end is suppressed before.
MIN_FRAMES = 2


def _signed(constant: int) -> int:
    """The constant less 2**32 where that is nearer to 0: times a 32-bit number it stays within 64 bits."""
    return constant - (1 << 32) if constant >= 1 << 31 else constant


#: A permutation of 32-bit numbers with low bias, found by search (https://github.com/skeeto/hash-prospector).
_FIRST, _SECOND = _signed(0x7FEB352D), _signed(0x846CA68B)
_GOLDEN = _signed(0x9E3779B9)


def mix(x: Tensor) -> Tensor:
    """A bijective hash of 32-bit numbers, held in int64."""
    x = ((x ^ (x >> 16)) * _FIRST) & _MASK
    x = ((x ^ (x >> 15)) * _SECOND) & _MASK
    return x ^ (x >> 16)


def frame_key(seed: Tensor, frame: Tensor) -> Tensor:
    """The key of a frame's noise: seed [batch] int64 (all 64 bits count), frame [batch] int64 from 0."""
    low, high = seed & _MASK, (seed >> 32) & _MASK
    return mix((mix((mix(low) + high * _GOLDEN) & _MASK) + frame * _GOLDEN) & _MASK)


def uniform(key: Tensor, codebook: int, tokens: int) -> Tensor:
    """Numbers in (0, 1) [batch, tokens], float32, for the draw of one codebook. key [batch]: :func:`frame_key`."""
    codebook_key = mix(key ^ ((codebook * 0x9E3779B9) & _MASK))[:, None]
    token = torch.arange(tokens, device=key.device)
    # Keyed twice: with once, two keys that differ in their low bits would share their numbers, permuted.
    hashed = mix((mix(codebook_key ^ token) + codebook_key) & _MASK)
    # 23 bits and a half: exact in float32, never 0 and never 1.
    return ((hashed >> 9).float() + 0.5) * 2.0**-23


def restrict(
    logits: Tensor, *, seen: Tensor, penalty: Tensor, step: Tensor, suppressed: Tensor, eos: int
) -> Tensor:
    """What upstream does to the talker's logits before any draw, greedy ones too.

    logits [batch, vocabulary] float32, seen [batch, vocabulary] bool (codes spoken so far), penalty [batch],
    step [batch] (codes spoken so far, counted), suppressed [vocabulary] bool. ``eos`` is suppressed before
    :data:`MIN_FRAMES`.
    """
    factor = penalty[:, None]
    penalized = torch.where(logits < 0, logits * factor, logits / factor)
    logits = torch.where(seen, penalized, logits)
    too_early = step[:, None] < MIN_FRAMES
    at_eos = torch.arange(logits.shape[1], device=logits.device) == eos
    return logits.masked_fill(suppressed | (too_early & at_eos), -torch.inf)


def process(logits: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Temperature, top_k, top_p in transformers' order: what is left of logits [batch, tokens], the rest -inf.

    temperature and top_p [batch] float32, top_k [batch] int64; 0 keeps all, as does a top_p of 1. Candidates
    that equal the last one kept are kept too.
    """
    scores = logits / temperature[:, None]
    tokens = scores.shape[1]
    ordered = scores.sort(dim=-1).values
    rank = torch.where(top_k == 0, tokens, top_k).clamp(max=tokens)
    by_k = ordered.gather(1, (tokens - rank)[:, None])
    kept = ordered.masked_fill(ordered < by_k, -torch.inf)
    # As many as have together at most 1 - top_p are the tail; the likeliest always stays.
    tail = (kept.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - top_p[:, None]).sum(dim=-1).clamp(max=tokens - 1)
    by_p = kept.gather(1, tail[:, None])
    by_p = torch.where(top_p[:, None] < 1.0, by_p, -torch.inf)
    return scores.masked_fill(scores < torch.maximum(by_k, by_p), -torch.inf)


def sample(
    logits: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    greedy: Tensor,
    key: Tensor,
    codebook: int,
) -> Tensor:
    """Draw a token [batch] int64 from logits [batch, tokens] float32; settings [batch] as :func:`process`.

    The Gumbel race: the largest of score plus -log(-log(u)) is a draw from the softmax of the scores. Rows
    with ``greedy`` take the likeliest token.
    """
    scores = process(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    race = scores - torch.log(-torch.log(uniform(key, codebook, logits.shape[1])))
    return torch.where(greedy, logits.argmax(dim=-1), race.argmax(dim=-1))
