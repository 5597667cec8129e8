"""The newest frames' times, kept without allocating."""

from __future__ import annotations

import numpy as np


class FrameTimes:
    """A ring of the newest ``size`` durations in seconds. One thread adds, any thread asks."""

    def __init__(self, size: int = 1024) -> None:
        self._ring = np.zeros(size)
        self._added = 0

    def add(self, seconds: float) -> None:
        """Keep ``seconds`` and forget the oldest."""
        self._ring[self._added % len(self._ring)] = seconds
        self._added += 1

    def percentiles(self, *wanted: float) -> tuple[float, ...] | None:
        """Of the kept durations, in seconds; None while there are none."""
        kept = self._ring[: self._added].copy()
        return tuple(np.percentile(kept, wanted).tolist()) if len(kept) else None
