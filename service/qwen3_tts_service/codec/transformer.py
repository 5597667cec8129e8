"""The decoder's transformer over a sliding window, a chunk at a time.

Keys are kept rotated to their absolute position, so a stream's window moves on without being recomputed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as fn
from torch import Tensor

from .layers import with_history
from .weights import Transformer, TransformerLayer


def transform(x: Tensor, position: Tensor, windows: list[Tensor], weights: Transformer) -> Tensor:
    """[batch, frames, hidden] to the same, normed; the last norm's weight is in the projection that follows.

    ``position`` [batch]: absolute index of each stream's first frame here. ``windows``: keys and values of every
    layer, [batch, window - 1, kv_heads * head_dim] each, moved on in place.
    """
    frames = x.shape[1]
    absolute = position[:, None] + torch.arange(frames, device=x.device)
    angles = absolute[..., None].float() * weights.inverse_frequencies
    cosine = (angles.cos() * weights.rope_scale).to(x.dtype)[:, None]
    sine = (angles.sin() * weights.rope_scale).to(x.dtype)[:, None]
    seen = _seen(position, frames, weights.window)
    for index, layer in enumerate(weights.layers):
        keys, values = windows[2 * index : 2 * index + 2]
        x = x + _attend(_normed(x, weights.epsilon), cosine, sine, seen, keys, values, layer, weights)
        gate, up = layer.gate_up(_normed(x, weights.epsilon)).chunk(2, dim=-1)
        x = x + layer.down(fn.silu(gate) * up)
    return _normed(x, weights.epsilon)


def _seen(position: Tensor, frames: int, window: int) -> Tensor:
    """[batch, 1, frames, window - 1 + frames]: which kept and new frames each new frame looks at."""
    query = torch.arange(frames, device=position.device)[:, None]
    key = torch.arange(window - 1 + frames, device=position.device)[None]
    band = (key >= query) & (key < query + window)
    started = key[None] >= (window - 1) - position[:, None, None]
    return (band[None] & started)[:, None]


def _normed(x: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    if x.is_cuda:  # where each operation is a launch
        return fn.rms_norm(wide, wide.shape[-1:], eps=epsilon).to(x.dtype)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``x`` [batch, heads, frames, head_dim]; cosine and sine [batch, 1, frames, head_dim / 2]."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)


def _attend(
    x: Tensor,
    cosine: Tensor,
    sine: Tensor,
    seen: Tensor,
    keys: Tensor,
    values: Tensor,
    layer: TransformerLayer,
    weights: Transformer,
) -> Tensor:
    def heads_first(rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:2], -1, weights.head_dim).transpose(1, 2)

    kept_width = weights.kv_heads * weights.head_dim
    turned, value = torch.split_with_sizes(
        layer.qkv(x), (weights.heads * weights.head_dim + kept_width, kept_width), dim=-1
    )
    query, key = torch.split_with_sizes(
        _rotated(heads_first(turned), cosine, sine), (weights.heads, weights.kv_heads), dim=1
    )
    key = key.transpose(1, 2).flatten(2)
    all_keys, all_values = heads_first(with_history(key, keys)), heads_first(with_history(value, values))
    mixed = fn.scaled_dot_product_attention(
        query, all_keys, all_values, attn_mask=seen, enable_gqa=weights.heads != weights.kv_heads
    )
    return layer.output(mixed.transpose(1, 2).flatten(2))
