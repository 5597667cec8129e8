"""Decoder layers through ``torch.compile``, one compiled function for each use."""

from __future__ import annotations

from types import FunctionType

import torch
from torch import Tensor
from torch._dynamo import config as dynamo

from .transformer import LayerFunction, LayerWeights, decoder_layer

#: Of one function: two, of one token and of two, for each batch size that a process may have.
_MOST_VERSIONS = 32


def compiled_layer(name: str, *, any_length: bool = False) -> LayerFunction:
    """A compiled decoder layer of its own, for one stack: one version for each number of rows and tokens.

    ``any_length``: a version serves every length of the mask. Compilation itself happens at the first call.
    """
    # By itself torch gives up on a function after eight.
    dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_VERSIONS)
    # torch keeps what it compiled by code object, and gives up on one that it has compiled too often.
    code = decoder_layer.__code__.replace(co_name=name)
    own = FunctionType(code, decoder_layer.__globals__, name)
    # By itself torch would make the batch a variable too, and be slower for it.
    compiled = torch.compile(own, fullgraph=True, dynamic=False)
    seen: set[torch.Size] = set()

    def layer(
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
        if any_length and x.shape not in seen:
            seen.add(x.shape)
            # Counts while a version is made, and is said of this mask only, not of those that it will be called with.
            torch._dynamo.mark_dynamic(mask, 3)
        result: Tensor = compiled(x, weights, keys, values, cos, sin, position, mask, eps)
        return result

    return layer
