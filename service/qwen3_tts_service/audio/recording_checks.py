"""Is a recording good enough to take a voice from it? What is wrong is said so that a person can do better."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InvalidValue

#: Seconds of speech below which a voice cannot be told.
SHORTEST_SPEECH_S = 1.0
#: Root mean square of the speech, dB below full scale.
QUIETEST_DBFS = -45.0
#: Part of the samples that may stand at full scale.
MOST_CLIPPED = 0.002

#: Speech is told from silence in windows of so many seconds: louder than this, and than the loudest less that.
_WINDOW_S = 0.02
_SILENCE_DBFS = -60.0
_BELOW_LOUDEST_DB = 35.0
#: A sample is at full scale beyond this, and clipped where as many as that stand there in a row.
_FULL_SCALE = 0.998
_RUN = 3


def check(waveform: npt.NDArray[np.float32], sample_rate: int, *, param: str) -> None:
    """Raise InvalidValue, in the name of the field ``param``, with everything that is wrong with a recording.

    ``waveform`` is mono [samples] in [-1, 1] at ``sample_rate`` Hz.
    """
    seconds = len(waveform) / sample_rate
    loudness = _loudness(waveform, sample_rate)
    speech = loudness > max(_SILENCE_DBFS, float(loudness.max(initial=-np.inf)) - _BELOW_LOUDEST_DB)
    speech_s = float(speech.sum()) * _WINDOW_S
    wrong = []
    if not speech.any():
        wrong.append(
            f"its {seconds:.1f} s are silent (nothing is above {_SILENCE_DBFS:g} dBFS): check the microphone"
        )
    else:
        if speech_s < SHORTEST_SPEECH_S:
            wrong.append(
                f"it holds {speech_s:.1f} s of speech in {seconds:.1f} s, at least {SHORTEST_SPEECH_S:g} s are "
                "wanted: record some sentences, 5 to 15 s are best"
            )
        level = 10 * float(np.log10(np.mean(10 ** (loudness[speech] / 10))))
        if level < QUIETEST_DBFS:
            wrong.append(
                f"its speech is at {level:.0f} dBFS, at least {QUIETEST_DBFS:g} are wanted: go nearer to the "
                "microphone or turn it up"
            )
    if (clipped := _clipped(waveform)) > MOST_CLIPPED:
        wrong.append(
            f"{clipped:.1%} of its samples are cut off at full scale, {MOST_CLIPPED:.1%} may be: record it at a "
            "lower level"
        )
    if wrong:
        raise InvalidValue(f"`{param}` is no recording to take a voice from: {'; '.join(wrong)}", param=param)


def _loudness(waveform: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float64]:
    """Root mean square of each whole window [windows], in dB below full scale."""
    length = round(_WINDOW_S * sample_rate)
    windows = waveform[: len(waveform) // length * length].reshape(-1, length).astype(np.float64)
    mean_square: npt.NDArray[np.float64] = np.mean(windows**2, axis=1)
    return 10 * np.log10(np.maximum(mean_square, 1e-20))


def _clipped(waveform: npt.NDArray[np.float32]) -> float:
    """The part of the samples that stand at full scale, several in a row and on one side."""
    clipped = 0
    for side in (waveform, -waveform):
        edges = np.flatnonzero(np.diff((side >= _FULL_SCALE).astype(np.int8), prepend=0, append=0))
        runs = edges[1::2] - edges[::2]
        clipped += int(runs[runs >= _RUN].sum())
    return clipped / max(1, len(waveform))
