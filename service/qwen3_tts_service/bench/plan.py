"""What a benchmark is asked to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..engine.linear import Weights
    from .report import Report

BATCHES = (1, 4, 8, 16, 32)
#: 8.96 s of sound: the sentence by which this model is usually judged.
SENTENCE_FRAMES = 112
SENTENCE = "Hello there, this is a test of the synthesis endpoint, and it is a sentence of a usual length for a reader."

CodecDevice = Literal["cpu", "gpu"]
CodecPrecision = Literal["fp32", "bf16"]
FastestWay = Literal["auto", "compiled", "eager"]


def _silent(_line: str) -> None:
    return None


def _forget(_so_far: Report) -> None:
    return None


@dataclass(frozen=True)
class Plan:
    """The checkpoint, where it runs, and how long is measured. All suites read the same one.

    ``device``, ``dtype``, ``codec_device``, ``cpu_threads`` and ``fastest_way`` are the settings of the service of
    that name.
    ``frames`` are timed in each measurement, ``repeats`` is how often a whole decode or request is repeated.
    ``positions`` is where a slot stands when its last timed frame is made; a slot holds ``slot_positions``.
    ``weights`` are the service's; the engine suite measures int8 beside bf16. ``say`` is told what is being
    measured now and what was found, ``keep`` is given the report so far, for whoever may be stopped.
    """

    checkpoint: Path
    device: str = "auto"
    dtype: str = "auto"
    codec_device: CodecDevice = "cpu"
    #: Of the servers that suites start.
    codec_dtype: CodecPrecision = "fp32"
    cpu_threads: int = 0
    #: Of the suites that run the whole engine; the suites of frames and codec measure the fastest there is.
    fastest_way: FastestWay = "auto"
    batches: tuple[int, ...] = BATCHES
    frames: int = SENTENCE_FRAMES
    repeats: int = 3
    positions: int = 1000
    slot_positions: int = 2048
    #: Whether upstream's code runs beside ours: it takes most of the time.
    upstream: bool = True
    #: Concurrent clients of the serve suite.
    clients: tuple[int, ...] = (1, 8)
    soak_minutes: float = 10.0
    #: Seconds of the overload suite.
    overload_s: float = 300.0
    #: Seconds of each rate of the rate suite.
    rate_s: float = 15.0
    weights: Weights = "bf16"
    say: Callable[[str], None] = _silent
    keep: Callable[[Report], None] = _forget

    @property
    def codec(self) -> str:
        """The codec of a server that a suite starts, for a title."""
        return f"codec on the {self.codec_device.upper()} in {self.codec_dtype}"
