"""What this process holds of a device's memory, for the journal: one figure before a load and one after it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

GIB = 1 << 30


def held_bytes(device: torch.device) -> int:
    """On a GPU what torch has reserved there, on the CPU what of this process is in memory."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back(device: torch.device) -> None:
    """Return what torch reserved on a GPU and nothing uses any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
