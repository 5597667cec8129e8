"""Medians and spread of repeated measurements."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A sample of one quantity, all members in the same unit: median, 5th and 95th percentile, how many."""

    median: float
    p05: float
    p95: float
    count: int

    def scaled(self, factor: float) -> Spread:
        """The same sample in another unit."""
        return Spread(self.median * factor, self.p05 * factor, self.p95 * factor, self.count)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie, linear between neighbours.

    Raises ValueError when there are no values.
    """
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(values: Sequence[float]) -> Spread:
    """Median and percentiles of ``values``. Raises ValueError when there are none."""
    return Spread(percentile(values, 0.5), percentile(values, 0.05), percentile(values, 0.95), len(values))


def intervals(times: Sequence[float]) -> list[float]:
    """The gaps between consecutive points of time."""
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def seconds_of(
    work: Callable[[], object],
    *,
    repeats: int,
    wait: Callable[[], object],
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each of ``repeats`` runs of ``work`` after ``warm_ups`` runs that do not count.

    ``wait`` blocks until the device has finished what ``work`` enqueued; it is part of the measured time.
    """
    for _ in range(warm_ups):
        work()
        wait()
    measured = []
    for _ in range(repeats):
        started = clock()
        work()
        wait()
        measured.append(clock() - started)
    return measured
