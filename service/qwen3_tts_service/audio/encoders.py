"""A finished waveform as the bytes of a format."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

from ..errors import EngineError


def encode(waveform: npt.NDArray[np.float32], *, sample_rate: int, audio_format: str) -> bytes:
    """Encode a mono waveform [samples] in [-1, 1], clipped beyond that, at ``sample_rate`` Hz.

    ``audio_format`` is a name of :data:`..speech.formats.CONTENT_TYPES`; both formats hold 16-bit samples,
    rounded the same way, so that pcm is the wav without its header. Raises EngineError for NaN and infinity:
    a device that computes them must not pass for one that speaks.
    """
    if not np.isfinite(waveform).all():
        raise EngineError("the waveform holds NaN or infinity: the device does not compute what it should")
    samples: npt.NDArray[np.int16] = np.clip(np.rint(waveform * 32767.0), -32768, 32767).astype("<i2")
    if audio_format == "pcm":
        return bytes(samples.data)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
