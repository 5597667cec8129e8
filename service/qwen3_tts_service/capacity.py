"""How many streams a host sustains: measured before the first request, with the engine and codec that will serve.

Streams are spoken together, and what is measured is how fast their sound comes out at the end. So the answer is the
least of what the engine and what the codec can do, and it knows what they take from each other on the same cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import monotonic

from .narration import Engine
from .speech.request import SpeechRequest

#: Every stream must be made so many times as fast as it is listened to: what is measured is short and alone on the
#: host, what is served may be long and is not.
ENOUGH = 1.2
_FRAMES = 25
_TEXT = (
    "How many voices can speak at the same time, so that none has to wait for the others? We measure it now."
)
#: Longest time of one measurement, in seconds.
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Capacity:
    """How many streams may be spoken at a time."""

    streams: int
    #: What was measured: streams at a time -> seconds of sound of each that were made in a second.
    speeds: Mapping[int, float] = field(default_factory=dict)


def measure(engine: Engine, request: SpeechRequest, *, give_up: Callable[[], bool]) -> Capacity:
    """The most streams, at most the engine's slots, of which each is made fast enough; one in any case.

    ``request`` is in a voice of the engine's, its text does not matter. Takes seconds; usually one measurement is
    enough, each further one halves what is in question. Raises what the engine raises.
    """
    request = replace(request, text=_TEXT, max_frames=_FRAMES)
    speeds: dict[int, float] = {}
    sustained, too_many, streams = 1, engine.slots + 1, engine.slots
    while too_many - sustained > 1:
        speed = _speed(engine, request, streams, give_up)
        if speed is not None:
            speeds[streams] = speed
        # A model that says nothing after its first sound is never late with it.
        if speed is None or speed >= ENOUGH:
            sustained = streams
        else:
            too_many = streams
        streams = (sustained + too_many) // 2
    return Capacity(sustained, speeds)


def _speed(engine: Engine, request: SpeechRequest, streams: int, give_up: Callable[[], bool]) -> float | None:
    """Seconds of sound a second, of each of so many streams, from their first sound on; None: there was no more."""

    def speak(seed: int) -> tuple[float, float]:
        """Seconds of sound after the first piece, and seconds that they took."""
        pieces = iter(
            engine.open(replace(request, seed=seed), deadline=monotonic() + _LIMIT_S, cancelled=give_up)
        )
        next(pieces, None)
        began = monotonic()
        samples = sum(len(piece) for piece in pieces)
        return samples / engine.sample_rate, monotonic() - began

    with ThreadPoolExecutor(streams) as pool:
        spoken = list(pool.map(speak, range(streams)))
    sound_s, took_s = (sum(column) for column in zip(*spoken, strict=True))
    return sound_s / took_s if sound_s and took_s else None
