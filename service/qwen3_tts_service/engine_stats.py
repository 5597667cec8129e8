"""What engines count, for metrics: the shape of it, wherever an engine runs."""

from __future__ import annotations

from typing import Protocol


class FrameStats(Protocol):
    """What a frame loop counts: frames since the load, and seconds between the newest ones."""

    @property
    def frames(self) -> int: ...

    @property
    def paused(self) -> int: ...

    @property
    def gap_p50_s(self) -> float | None: ...

    @property
    def gap_p95_s(self) -> float | None: ...


class CodecStats(Protocol):
    """What the codec counts, for all models that share it: frames turned into sound, and frames that wait for it."""

    @property
    def frames(self) -> int: ...

    @property
    def backlog(self) -> int: ...


class EngineStats(Protocol):
    """What an engine that makes frames counts. ``memory_bytes``: what its process holds on the device."""

    @property
    def frames(self) -> FrameStats: ...

    @property
    def codec(self) -> CodecStats: ...

    @property
    def memory_bytes(self) -> int: ...
