"""How many requests one key may send in a while."""

from __future__ import annotations

import time

import limits
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from ..errors import RateLimited


class RateLimit:
    """``rate`` such as ``60/minute`` for each client by itself; empty: as many as they like."""

    def __init__(self, rate: str) -> None:
        self._rate = limits.parse(rate) if rate else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, client: str) -> None:
        """One more request of ``client``. Raises RateLimited when that is one too many."""
        rate = self._rate
        if rate is None or self._limiter.hit(rate, client):
            return
        wait_s = self._limiter.get_window_stats(rate, client).reset_time - time.time()
        if wait_s > rate.get_expiry():
            # The library counts by the wall clock, and that was put back: what it remembers lies in the future.
            self._limiter.clear(rate, client)
            self._limiter.hit(rate, client)
            return
        raise RateLimited(
            f"one key may send {rate.amount} requests in {rate.get_expiry()} s, and this would be one more: "
            "send fewer, or wait",
            retry_after_s=max(1.0, wait_s),
        )
