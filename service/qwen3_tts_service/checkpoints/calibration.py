"""Rescale the layers of a convolutional model while one batch runs through it.

Convolutions, snakes, gated units and attention have no handy formula for the size of what comes out, but
the models around them (codec decoder and encoder, speaker encoder) are small: each linear or convolutional
layer is scaled when the batch reaches it, and the corrected output goes on, so one pass settles all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

#: Name of a layer -> the standard deviation that its output shall have; None leaves the layer alone.
Targets = Callable[[str], float | None]


def coarse(value: float) -> float:
    """``value`` with seven bits of mantissa.

    The last bits of a sum depend on the CPU and on the number of threads; the written bytes must not.
    """
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 128) / 128, exponent)


@contextmanager
def calibrated(model: nn.Module, targets: Targets) -> Iterator[None]:
    """While the block runs, give every layer that is reached the size that ``targets`` names."""
    seen: set[str] = set()

    def hook_for(name: str, target: float) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor | None]:
        def rescale(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            if name in seen:
                return None
            seen.add(name)
            deviation = float(output.float().std())
            if not math.isfinite(deviation) or deviation == 0.0:
                raise RuntimeError(f"the layer {name} puts out a constant or NaN: the scales are wrong")
            factor = coarse(target / deviation)
            for parameter in layer.parameters(recurse=False):
                parameter.mul_(factor)
            return output * factor

        return rescale

    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            target = targets(name)
            if target is not None:
                handles.append(layer.register_forward_hook(hook_for(name, target)))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
