"""Speech faster or slower at the pitch it has."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .ffmpeg import av
from .pcm import Samples

#: Beyond these one filter drops samples instead of blending them (above) or refuses (below).
_ONE_FILTER = (0.5, 2.0)
#: Samples at a time: the filter gives away what it has only when it is given something (20 ms at 24 kHz).
_STEP = 480


class Tempo:
    """Plays samples of ``sample_rate`` Hz ``speed`` times as fast (0.25 to 4), piece by piece.

    ffmpeg's ``atempo``: overlapping windows of about 43 ms, each laid where it fits the one before (WSOLA).
    The pieces' sizes change nothing, and n samples become round(n / speed). What comes out lags behind what
    went in by at most 0.1 s of the original from half to double speed, and 0.25 s beyond. At speed 1 they pass.
    """

    def __init__(self, speed: float, sample_rate: int) -> None:
        self.speed = speed
        self._sample_rate = sample_rate
        self._taken = self._given = 0
        if speed == 1:
            return
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(
            sample_rate=sample_rate, format="s16", layout="mono", time_base=Fraction(1, sample_rate)
        )
        self._sink = self._graph.add("abuffersink")
        filters = [self._graph.add("atempo", repr(factor)) for factor in _factors(speed)]
        self._graph.link_nodes(self._source, *filters, self._sink).configure()

    def feed(self, samples: Samples) -> Samples:
        """Take the next samples; return those that are ready, which may be none."""
        self._taken += len(samples)
        ready = self._through(samples)
        self._given += len(ready)
        return ready

    def finish(self) -> Samples:
        """There are no more samples: return the rest."""
        missing = round(self._taken / self.speed) - self._given
        # The filter's own end is short or long by a part of a window. Silence pushes the last sample out.
        rest = np.zeros(0, np.int16)
        while len(rest) < missing:
            rest = np.concatenate([rest, self._through(np.zeros(self._sample_rate // 4, np.int16))])
        return rest[:missing]

    def _through(self, samples: Samples) -> Samples:
        if self.speed == 1:
            return samples
        ready = [np.zeros(0, np.int16)]
        for start in range(0, len(samples), _STEP):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + _STEP], format="s16", layout="mono"
            )
            frame.sample_rate = self._sample_rate
            self._source.push(frame)
            ready += self._pull()
        return np.concatenate(ready)

    def _pull(self) -> list[Samples]:
        ready: list[Samples] = []
        while True:
            try:
                frame = self._sink.pull()
            except av.BlockingIOError:
                # It wants more first.
                return ready
            assert isinstance(frame, av.AudioFrame)
            ready.append(frame.to_ndarray()[0])


def _factors(speed: float) -> list[float]:
    """Factors within what one filter does well, whose product is ``speed``."""
    slowest, fastest = _ONE_FILTER
    factors = []
    while not slowest <= speed <= fastest:
        factors.append(fastest if speed > fastest else slowest)
        speed /= factors[-1]
    return [*factors, speed]
