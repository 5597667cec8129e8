"""Is this WAV speech? Length and loudness of what the service sends, with the standard library alone."""

from __future__ import annotations

import array
import io
import math
import wave
from dataclasses import dataclass

from ..errors import EngineError

RATE = 24_000
#: A streamed header's length in samples: 0xFFFFFFFF bytes, which stand for "not known yet".
_UNKNOWN_FRAMES = 0xFFFFFFFF // 2


@dataclass(frozen=True)
class Sound:
    """``duration_s`` seconds; ``loudness_dbfs``: root mean square, dB below full scale, -inf for silence."""

    duration_s: float
    loudness_dbfs: float


def measure(content: bytes) -> Sound:
    """Measure a 16-bit mono WAV of 24 kHz, with a whole or a streamed header.

    Raises EngineError when it is none, is empty, or is shorter than its header says.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            shape = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            frames, data = file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise EngineError(f"the speech is no WAV: {error or 'it ends too early'}") from error
    if shape != (1, 2, RATE):
        raise EngineError(f"the WAV has channels, bytes a sample, Hz = {shape}, expected (1, 2, {RATE})")
    if len(data) % 2 or (frames != _UNKNOWN_FRAMES and len(data) != 2 * frames):
        raise EngineError(f"the WAV is cut off: {len(data)} bytes of sound, its header says {2 * frames}")
    samples = array.array("h", data)
    if not samples:
        raise EngineError("the WAV is empty")
    mean_square = sum(sample * sample for sample in samples) / len(samples)
    return Sound(len(samples) / RATE, 10 * math.log10(mean_square / 32768**2) if mean_square else -math.inf)
