"""What the server's process and the engine's say to each other.

Messages are pickled, which is safe because both ends are ours: the socket is made before the child starts, it
has no name, and nobody else holds it. The child sends lists of messages, as many as wait at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config import Settings
from ..errors import TTSError
from ..loaded_engine import Description, SelfCheck
from ..speech.listening import Finish


@dataclass(frozen=True)
class Begin:
    """The first message to the child: its settings, and the lanes of the sound memory on descriptor ``sound``."""

    settings: Settings
    sound: int
    lanes: int


@dataclass(frozen=True)
class Call:
    """Do something and say what came of it: the method ``name`` of :class:`.child.EngineHost`."""

    number: int
    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Cancel:
    """Nobody listens to this utterance any more."""

    utterance: int


@dataclass(frozen=True)
class Answer:
    """What came of a call: a value, or what is raised to the caller."""

    number: int
    value: Any = None
    error: TTSError | None = None


@dataclass(frozen=True)
class Heard:
    """So many samples of an utterance have been written to its lane since its beginning."""

    utterance: int
    samples: int


@dataclass(frozen=True)
class Ended:
    """The last message of an utterance: its lane is not written to any more."""

    utterance: int
    finish: Finish | None
    error: TTSError | None


@dataclass(frozen=True)
class Fault:
    """The device is lost for every model of the process."""

    error: TTSError


@dataclass(frozen=True)
class Built:
    """A loaded model: what it offers, and the rest as :mod:`..loaded_engine` describes it."""

    model: int
    offers: Description
    slots: int
    sample_rate: int
    ways: dict[int, str]
    reasons: dict[int, str]
    self_check: SelfCheck
    codec_way: str
    codec_reason: str
    prompt_way: str


@dataclass(frozen=True)
class FrameCounts:
    """What a frame loop counts, as :class:`..engine_stats.FrameStats`."""

    frames: int
    paused: int
    gap_p50_s: float | None
    gap_p95_s: float | None


@dataclass(frozen=True)
class CodecCounts:
    """What the codec counts, as :class:`..engine_stats.CodecStats`."""

    frames: int
    backlog: int


@dataclass(frozen=True)
class Counts:
    """What an engine that makes frames counts, as :class:`..engine_stats.EngineStats`."""

    frames: FrameCounts
    codec: CodecCounts
    memory_bytes: int
