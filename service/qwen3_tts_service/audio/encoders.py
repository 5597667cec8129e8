"""A waveform as the bytes of a format, piece by piece.

A WAV begins with its length, which nobody knows while speech is still being made. Then both length fields
hold 0xFFFFFFFF, as ffmpeg writes into a pipe and OpenAI's service sends: players read on until the end.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from ..errors import EngineError

_UNKNOWN = 0xFFFFFFFF
BYTES_A_SAMPLE = 2


def header(audio_format: str, sample_rate: int, sound_bytes: int | None = None) -> bytes:
    """What stands before the sound: nothing for pcm, 44 bytes for wav.

    ``audio_format`` is a name of :data:`..speech.formats.CONTENT_TYPES`, ``sample_rate`` in Hz.
    ``sound_bytes`` is the size of the sound that follows, None while it is not known.
    """
    if audio_format == "pcm":
        return b""
    riff = _UNKNOWN if sound_bytes is None else 36 + sound_bytes
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff, b"WAVE"),
        # PCM, mono.
        *(b"fmt ", 16, 1, 1, sample_rate, sample_rate * BYTES_A_SAMPLE, BYTES_A_SAMPLE, 16),
        *(b"data", _UNKNOWN if sound_bytes is None else sound_bytes),
    )


def sound(waveform: npt.NDArray[np.float32]) -> bytes:
    """A piece of mono waveform [samples] in [-1, 1], clipped beyond that, as signed 16-bit little endian.

    Both formats hold these samples, so pcm is the wav without its header. Raises EngineError for NaN and
    infinity: a device that computes them must not pass for one that speaks.
    """
    if not np.isfinite(waveform).all():
        raise EngineError("the waveform holds NaN or infinity: the device does not compute what it should")
    samples: npt.NDArray[np.int16] = np.clip(np.rint(waveform * 32767.0), -32768, 32767).astype("<i2")
    return bytes(samples.data)
