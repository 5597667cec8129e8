"""How many kernels a frame is for a GPU: read from the device's own record of what it ran."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def kernels(program: Callable[[], object], device: torch.device) -> int | None:
    """Kernels that ``program`` ran on ``device``; None for a CPU, or where the profiler sees nothing."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        program()
        torch.cuda.synchronize(device)
    # Copies and fills are the device's own work, no kernels.
    names = [event.name for event in recorded.events() if event.device_type.name == "CUDA"]
    count = sum(not name.startswith(("Memcpy", "Memset")) for name in names)
    return count or None
