"""Random tensors that depend on a seed and a name only.

Each tensor has its own generator, so neither the order of writing nor the other tensors of a checkpoint
change its bytes. Values are uniform: the generator's bits are turned into floats by exact arithmetic, where
a normal distribution goes through vectorised logarithms that differ in the last bit between CPUs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch


def generator(seed: int, name: str) -> torch.Generator:
    """The generator of the tensor ``name`` in the checkpoint ``seed``."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniform(seed: int, name: str, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
    """A float32 tensor of ``shape`` with values in [low, high)."""
    values = torch.empty(tuple(shape), dtype=torch.float32)
    return values.uniform_(low, high, generator=generator(seed, name))


def centred(seed: int, name: str, shape: Sequence[int], std: float) -> torch.Tensor:
    """A float32 tensor of ``shape`` with mean 0 and standard deviation ``std``."""
    bound = std * math.sqrt(3.0)
    return uniform(seed, name, shape, -bound, bound)
