"""A decoder stack in plain tensors: fused weights, static keys and values, one function per layer.

The arithmetic is upstream's (``modeling_qwen3_tts.py``), cast by cast, so that float32 codes are equal. The
layer function is the same for talker and code predictor, for one token and for a prompt; everything it
reads is an argument, so one compiled version serves every layer of a stack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.memory import give_back
from ..errors import CheckpointError
from .linear import Matrix, Weights, laid_out, linear
from .widening import Widening


class LayerWeights(NamedTuple):
    """One layer, matrices as [out, in] in rows without gaps. ``qkv`` holds queries, keys, values in that order."""

    input_norm: Tensor  # [hidden]
    qkv: Matrix  # [(heads + 2 kv_heads) * head_dim, hidden]
    q_norm: Tensor  # [head_dim]
    k_norm: Tensor  # [head_dim]
    output: Matrix  # [hidden, heads * head_dim]
    mlp_norm: Tensor  # [hidden]
    gate_up: Matrix  # [2 * mlp, hidden], gate first
    down: Matrix  # [hidden, mlp]


#: x, weights, keys, values, cos, sin, position, mask, eps -> x; shapes as in :func:`decoder_layer`.
LayerFunction = Callable[
    [Tensor, LayerWeights, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor
]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: float32 inside, the weight applied after the cast back."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [batch, tokens, heads, head_dim]; cos and sin [batch, tokens, 1, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Grouped-query attention without repeating keys and values.

    query [batch, tokens, heads, head_dim], keys and values [batch, kv_heads, length, head_dim], mask
    [batch, 1, tokens, length] (added to the scores). The heads that share one key head are laid side by side
    as if they were tokens. Returns [batch, tokens, heads * head_dim].
    """
    batch, tokens, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    side_by_side = (
        query.view(batch, tokens, kv_heads, group, head_dim)
        .permute(0, 2, 3, 1, 4)
        .reshape(batch, kv_heads, group * tokens, head_dim)
    )
    # One token broadcasts over the group; a prompt needs its rows once for each head of it.
    rows = mask if tokens == 1 else mask.repeat(1, 1, group, 1)
    mixed = functional.scaled_dot_product_attention(side_by_side, keys, values, attn_mask=rows)
    return (
        mixed.view(batch, kv_heads, group, tokens, head_dim)
        .permute(0, 3, 1, 2, 4)
        .reshape(batch, tokens, heads * head_dim)
    )


def decoder_layer(
    x: Tensor,
    weights: LayerWeights,
    keys: Tensor,
    values: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    mask: Tensor,
    eps: float,
) -> Tensor:
    """One layer over x [batch, tokens, hidden]; writes its keys and values in place at ``position``.

    keys and values [batch, kv_heads, positions, head_dim], cos and sin [batch, tokens, 1, head_dim], position
    [batch, tokens], mask [batch, 1, tokens, length]: attention reads the first ``length`` positions.
    """
    batch, tokens, _ = x.shape
    kv_heads, length = keys.shape[1], mask.shape[-1]
    head_dim = weights.q_norm.shape[0]
    fused = linear(rms_norm(x, weights.input_norm, eps), weights.qkv)
    heads = fused.shape[-1] // head_dim - 2 * kv_heads
    by_head = fused.view(batch, tokens, -1, head_dim)
    query, key, value = torch.split(by_head, [heads, kv_heads, kv_heads], dim=2)
    query = rotate(rms_norm(query, weights.q_norm, eps), cos, sin)
    key = rotate(rms_norm(key, weights.k_norm, eps), cos, sin)
    rows = torch.arange(batch, device=x.device)[:, None]
    keys[rows, :, position] = key
    values[rows, :, position] = value
    mixed = attention(query, keys[:, :, :length], values[:, :, :length], mask)
    x = x + linear(mixed, weights.output)
    gate, up = linear(rms_norm(x, weights.mlp_norm, eps), weights.gate_up).chunk(2, dim=-1)
    return x + linear(functional.silu(gate) * up, weights.down)


class StackWeights:
    """The weights of one stack, fused and copied to the heap, with its rotary tables.

    ``layers`` one :class:`LayerWeights` each, ``norm`` [hidden], ``cos`` and ``sin`` [positions, 1, head_dim] in
    the model's data type, ``eps`` of the norms.
    """

    def __init__(
        self,
        stack: Any,
        *,
        positions: int,
        weights: Weights,
        release: bool,
        widening: Widening | None = None,
    ) -> None:
        """Take over upstream's ``stack`` (talker model or code predictor model).

        ``release`` empties each upstream layer as soon as it is copied, so that no unfused copy stays and
        the tensors in use peak one layer above the sum; upstream cannot generate afterwards. What torch then
        has reserved for nothing is given back. Raises CheckpointError for a stack with parts that this
        arithmetic has not.
        """
        config = stack.config
        if config.attention_bias or config.hidden_act != "silu" or config.sliding_window is not None:
            raise CheckpointError(
                f"{config.model_type}: attention_bias {config.attention_bias}, hidden_act {config.hidden_act!r}, "
                f"sliding_window {config.sliding_window}; the engine computes stacks without bias and window, "
                "with silu. Set engine to reference"
            )
        self.eps = float(config.rms_norm_eps)
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = stack.layers[0].self_attn.head_dim
        self.layers: list[LayerWeights] = []
        for layer in stack.layers:
            self.layers.append(_fuse(layer, partial(laid_out, weights=weights, widening=widening)))
            if release:
                release_weights(layer)
        if release:
            # Two blocks of one matrix each do not make the one that both need together: of 1.7B's gate and up
            # 1.4 GB stay behind, and keys and values would come on top of them.
            give_back(stack.norm.weight.device)
        self.norm = _copy(stack.norm.weight)
        self.cos, self.sin = _rotary_tables(stack.rotary_emb, positions, self.norm)


class KeyValueCache:
    """Keys and values of one stack: per layer [slots, kv_heads, positions, head_dim]."""

    def __init__(self, weights: StackWeights, *, slots: int, positions: int) -> None:
        shape = (len(weights.layers), 2, slots, weights.kv_heads, positions, weights.head_dim)
        self.whole = weights.norm.new_zeros(shape)
        self.keys = [layer[0] for layer in self.whole]
        self.values = [layer[1] for layer in self.whole]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot to another."""
        self.whole[:, :, target, :, :length] = self.whole[:, :, source, :, :length]

    def clear(self, slot: int) -> None:
        """Zero a slot: what a mask hides still counts as 0 times itself, and that of NaN is NaN."""
        self.whole[:, :, slot].zero_()


class Stack:
    """A stack with its keys and values. ``layer_fn`` of its steps may be replaced by a compiled version."""

    def __init__(self, weights: StackWeights, *, slots: int, positions: int) -> None:
        self.weights = weights
        self.cache = KeyValueCache(weights, slots=slots, positions=positions)
        self.layer_fn: LayerFunction = decoder_layer

    def step(self, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """x [batch, tokens, hidden] through all layers and the last norm, over the first ``batch`` slots."""
        return self._run(self.layer_fn, x, position, mask, 0)

    def prefill(self, x: Tensor, position: Tensor, mask: Tensor, slot: int) -> Tensor:
        """x [1, tokens, hidden] through all layers and the last norm, over one slot."""
        return self._run(decoder_layer, x, position, mask, slot)

    def _run(self, layer_fn: LayerFunction, x: Tensor, position: Tensor, mask: Tensor, first: int) -> Tensor:
        weights, last = self.weights, first + x.shape[0]
        cos, sin = weights.cos[position], weights.sin[position]
        for layer, keys, values in zip(weights.layers, self.cache.keys, self.cache.values, strict=True):
            x = layer_fn(
                x, layer, keys[first:last], values[first:last], cos, sin, position, mask, weights.eps
            )
        return rms_norm(x, weights.norm, weights.eps)


def release_weights(module: torch.nn.Module) -> None:
    """Drop the parameters of an upstream module that were copied elsewhere; it cannot be called afterwards."""
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().clone(memory_format=torch.contiguous_format)


def _fuse(layer: Any, lay_out: Callable[[Tensor], Matrix]) -> LayerWeights:
    attend, mlp = layer.self_attn, layer.mlp
    with torch.no_grad():
        return LayerWeights(
            input_norm=_copy(layer.input_layernorm.weight),
            qkv=lay_out(torch.cat((attend.q_proj.weight, attend.k_proj.weight, attend.v_proj.weight))),
            q_norm=_copy(attend.q_norm.weight),
            k_norm=_copy(attend.k_norm.weight),
            output=lay_out(_copy(attend.o_proj.weight)),
            mlp_norm=_copy(layer.post_attention_layernorm.weight),
            gate_up=lay_out(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))),
            down=lay_out(_copy(mlp.down_proj.weight)),
        )


def _rotary_tables(rotary: Any, positions: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [positions, 1, head_dim], computed in float32 and cast as upstream does.

    The talker's three position axes (mrope) are equal for speech, so that interleaving them changes nothing.
    """
    steps = torch.arange(positions, device=like.device, dtype=torch.float32)
    angles = steps[:, None] * rotary.inv_freq.to(like.device, torch.float32)[None, :]
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    scaling = rotary.attention_scaling
    return (angles.cos() * scaling).to(like.dtype), (angles.sin() * scaling).to(like.dtype)
