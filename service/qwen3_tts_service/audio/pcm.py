"""Samples: what every format is made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import EngineError

BYTES_A_SAMPLE = 2

#: Mono samples, signed 16 bit [samples].
Samples = npt.NDArray[np.int16]


def samples(waveform: npt.NDArray[np.float32]) -> Samples:
    """A piece of mono waveform [samples] in [-1, 1], clipped beyond that.

    Raises EngineError for NaN and infinity: a device that computes them must not pass for one that speaks.
    """
    if not np.isfinite(waveform).all():
        raise EngineError("the waveform holds NaN or infinity: the device does not compute what it should")
    rounded: Samples = np.clip(np.rint(waveform * 32767.0), -32768, 32767).astype(np.int16)
    return rounded


def little_endian(samples: Samples) -> bytes:
    """The bytes of format ``pcm``, and of the sound in a WAV."""
    return samples.astype("<i2").tobytes()
